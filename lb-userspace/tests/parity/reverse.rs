//! Which path a member is asked for, and what becomes of the places and cookies that it answers with
//! (apache.md 3.1 to 3.3, 3.13).

use super::stage::Stage;

#[test]
fn paths_are_put_together_alike() {
    let Some(stage) = Stage::start(
        &["a", "b"],
        &[],
        "ProxyPass /noslash http://{a}/foo/\nProxyPass /both/ http://{a}/foo\nProxyPass /app/ http://{a}/\n\
         ProxyPass /m http://{a}/first\nProxyPass /m/deep http://{a}/never\n\
         ProxyPass /not/me !\nProxyPass /not http://{a}/not\n\
         ProxyPass /raw http://{a}/raw nocanon\nProxyPass /noquery http://{a}/noquery noquery\n\
         <Proxy balancer://p>\nBalancerMember http://{a}/app\n</Proxy>\n\
         <Proxy balancer://s>\nBalancerMember http://{a}/app/\n</Proxy>\n\
         <Proxy balancer://h>\nBalancerMember http://{b}\n</Proxy>\n\
         ProxyPass /p balancer://p\nProxyPass /ps/ balancer://p/\nProxyPass /psub/ balancer://p/sub/\n\
         ProxyPass /s balancer://s\nProxyPass /ss/ balancer://s/\n\
         ProxyPass /h balancer://h\nProxyPass /hs/ balancer://h/\nProxyPass /hsub balancer://h/sub\n\
         ProxyPass /undefined/ balancer://undefined/\n\
         ProxyPassMatch ^/plain/ http://{a}\nProxyPassMatch ^/re/(.*)/(.*)$ http://{a}/$2/$1\n\
         ProxyPass ~ ^/tilde/(.*)$ http://{a}/t/$1\n\
         <Location /loc>\nProxyPass http://{a}/loc\n</Location>\n\
         <Location /loc/not>\nProxyPass !\n</Location>\n\
         <LocationMatch ^/lm/(\\d+)>\nProxyPassMatch http://{a}/number/$1\n</LocationMatch>\n",
    ) else {
        return;
    };
    let paths = [
        "/noslash",
        "/noslash/",
        "/noslash/bar",
        "/noslashbar",
        "/noslash?q=1",
        "/both/",
        "/both/bar",
        "/both",
        "/app/",
        "/app/x",
        "/app",
        "/app//x",
        "/app/./x",
        "/app/y/../x",
        "/app/x?a=b&c",
        "/app/x?",
        "/app/?",
        "/m",
        "/m/deep",
        "/m/deeper",
        "/not/me",
        "/not/me/x",
        "/not/you",
        "/not",
        "/raw/%7Ex%20y/%41?q=%7E",
        "/raw//x",
        "/noquery/x?q=1",
        "/p",
        "/p/",
        "/p/k",
        "/ps/",
        "/ps/k",
        "/ps",
        "/psub/k",
        "/s",
        "/s/k",
        "/ss/",
        "/ss/k",
        "/h",
        "/h/",
        "/h/k",
        "/hs/",
        "/hs/k",
        "/hsub",
        "/hsub/k",
        "/hsub?q",
        "/undefined/x",
        "/plain/zz",
        "/plain/zz?q",
        "/re/x/y",
        "/re/x",
        "/tilde/x",
        "/loc",
        "/loc/x",
        "/loc/not",
        "/loc/not/x",
        "/lm/12",
        "/lm/12/x",
        "/lm/x",
        "/app/%7Ea%41",
        "/app/a%20b",
        "/app/a%3Fb",
        "/app/a%25b",
        "/app/a%2fb",
        "/app/%C3%A4",
        "/app/a+b~!$&'()*,;=:@",
        "/app/x;v=1",
        "/app/%5Cx",
        "/app/%22%3C%3E",
        "//app//x",
        "/%61pp/x",
        "/app/x#y",
        "/app/a%00b",
        "/app/%zz",
        "/../app/x",
        "/app/..",
        "/app/%2e%2e/x",
        "/app/{x}|^",
        "/nothing",
    ];
    let failures: Vec<String> = paths
        .iter()
        .filter_map(|path| stage.differs(&format!("GET {path}"), &[]))
        .collect();
    stage.end(&failures);
}

#[test]
fn places_in_responses_are_rewritten_alike() {
    let Some(stage) = Stage::start(
        &["a", "b", "c"],
        &[],
        "<Proxy balancer://two>\nBalancerMember http://{a}\nBalancerMember http://{b}/base status=D\n</Proxy>\n\
         <Proxy balancer://slash>\nBalancerMember http://{a}/\n</Proxy>\n\
         ProxyPass / balancer://two/\n\
         <VirtualHost *:{port}>\nServerName plain.test\nProxyPassReverse /app/ http://{a}/inner/\n\
         ProxyPassReverse /rest http://{a}\nProxyPassReverse /c/ http://{c}/\n</VirtualHost>\n\
         <VirtualHost *:{port}>\nServerName path.test\nProxyPassReverse /app/ /inner/\n</VirtualHost>\n\
         <VirtualHost *:{port}>\nServerName balancer.test\nProxyPassReverse /app/ balancer://two/\n</VirtualHost>\n\
         <VirtualHost *:{port}>\nServerName bare.test\nProxyPassReverse /app balancer://two\n</VirtualHost>\n\
         <VirtualHost *:{port}>\nServerName sub.test\nProxyPassReverse /app/ balancer://two/inner/\n</VirtualHost>\n\
         <VirtualHost *:{port}>\nServerName root.test\nProxyPassReverse / balancer://two/\n</VirtualHost>\n\
         <VirtualHost *:{port}>\nServerName slash.test\nProxyPassReverse /app/ balancer://slash/\n</VirtualHost>\n\
         <VirtualHost *:{port}>\nServerName slashsub.test\nProxyPassReverse /app/ balancer://slash/inner/\n</VirtualHost>\n\
         <VirtualHost *:{port}>\nServerName location.test\n<Location /here/>\nProxyPassReverse http://{a}/inner/\n</Location>\n\
         <Location /here/there/>\nProxyPassReverse http://{a}/\n</Location>\n</VirtualHost>\n\
         <VirtualHost *:{port}>\nServerName preserve.test\nProxyPreserveHost On\nProxyPassReverse / http://preserve.test/\n</VirtualHost>\n\
         <VirtualHost *:{port}>\nServerName none.test\n</VirtualHost>\n",
    ) else {
        return;
    };
    let hosts = [
        "plain", "path", "balancer", "bare", "sub", "root", "slash", "slashsub", "location",
        "preserve", "none",
    ];
    let values = [
        "http://{a}/inner/x",
        "HTTP://{a}/inner/x",
        "http://{a}/INNER/x",
        "http://{a}/inner",
        "http://{a}/inner/",
        "http://{a}/other?q=http://{a}/",
        "http://{a}",
        "http://{a}/",
        "http://{b}/x",
        "http://{b}/base/x",
        "http://{b}/base",
        "http://{c}/x",
        "https://{a}/inner/x",
        "/inner/x",
        "/inner",
        "inner/x",
        "./x",
        "?q",
        "//{a}/inner/x",
        "http://else.where/inner/z",
        "http://else.where:1/z",
        "balancer://two/x",
        "mailto:x",
        "http://preserve.test/x",
        "http://127.0.0.1/inner/x",
    ];
    let mut failures = Vec::new();
    for host in hosts {
        let host_field = format!("Host: {host}.test");
        let lines: &[&str] = match host {
            "location" => &["GET /x?a=302", "GET /here/x", "GET /here/there/x?a=201"],
            _ => &["GET /here/x?a=302"],
        };
        for value in values {
            let give = format!("X-Give: Location: {value}");
            for line in lines {
                failures.extend(stage.differs(line, &[&host_field, &give]));
            }
        }
        let others = ["Content-Location", "URI", "Destination", "Refresh", "Link"];
        let others = others.map(|name| format!("X-Give-{name}: {name}: http://{{a}}/inner/x"));
        let mut fields: Vec<&str> = others.iter().map(String::as_str).collect();
        let with_port = format!("{host_field}:99");
        fields.extend([with_port.as_str(), "X-Give: Location: http://{a}/inner/x"]);
        failures.extend(stage.differs("GET /here/x", &fields));
    }
    stage.end(&failures);
}

#[test]
fn cookies_in_responses_are_rewritten_alike() {
    let Some(stage) = Stage::start(
        &["a"],
        &[],
        "ProxyPass / http://{a}/\nProxyPassReverseCookiePath /i/ /l/\nProxyPassReverseCookiePath /j /\n\
         ProxyPassReverseCookieDomain back.test front.test\nProxyPassReverseCookieDomain .dot.test .front.test\n",
    ) else {
        return;
    };
    let cookies = [
        "S=1; Path=/i/sub",
        "S=1; Path=/i/",
        "S=1; Path=/i",
        "S=1; Path=/I/",
        "S=1;Path=/i/;HttpOnly",
        "S=1; path=/i/x; Secure",
        "S=1; PATH=/jj",
        "S=1; Path=/other",
        "S=1; Path=\"/i/\"",
        "S=1; Path = /i/",
        "S=1; Path=",
        "S=1; Path",
        "S=1; Domain=back.test",
        "S=1; domain=BACK.test; Path=/i/x",
        "S=1; Domain=.back.test",
        "S=1; Domain=sub.back.test",
        "S=1; Domain=.dot.test",
        "S=1; Domain=dot.test",
        "S=1; Domain=back.test.evil",
        "Path=/i/; Path=/i/x",
        "S=Path=/i/",
        "S",
        "",
        "S=1; Expires=Wed, 09 Jun 2021 10:18:14 GMT; Path=/i/x; SameSite=Lax",
    ];
    let mut failures: Vec<String> = cookies
        .iter()
        .filter_map(|cookie| stage.differs("GET /x", &[&format!("X-Give: Set-Cookie: {cookie}")]))
        .collect();
    failures.extend(stage.differs(
        "GET /x",
        &[
            "X-Give-1: Set-Cookie: A=1; Path=/i/",
            "X-Give-2: Set-Cookie: B=2; Path=/j/",
        ],
    ));
    stage.end(&failures);
}
