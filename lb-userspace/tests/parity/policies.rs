//! Sections, access, fields, variables, redirects and errors.

use super::peers::{Pair, is_here};

/// Asks both for each request, written as `METHOD PATH` and fields, and compares.
pub(super) fn compare(configuration: &str, requests: &[(&str, &[&str])]) {
    if !is_here() {
        return;
    }
    let pair = Pair::start(configuration);
    let mut failures = Vec::new();
    for (line, fields) in requests {
        let (theirs, ours) = pair.ask(line, fields);
        if theirs != ours {
            failures.push(format!(
                "{line} {fields:?}\nhttpd:  {theirs:#?}\nsluice: {ours:#?}"
            ));
        }
    }
    assert!(
        failures.is_empty(),
        "{}\n{}",
        failures.join("\n"),
        pair.log()
    );
}

#[test]
fn sections_are_merged_in_httpds_order() {
    compare(
        "ProxyPass / http://MEMBER/\n\
         Header set X-Last server\n\
         <If \"%{QUERY_STRING} == 'if'\">\nHeader set X-Last if\n</If>\n\
         <ElseIf \"%{QUERY_STRING} == 'else'\">\nHeader set X-Last elseif\n</ElseIf>\n\
         <Else>\nHeader set X-Else yes\n</Else>\n\
         <Location /a>\nHeader set X-Last a\nHeader set X-A 1\nProxyPreserveHost On\n</Location>\n\
         <Location /a/b>\nHeader set X-Last b\nProxyAddHeaders Off\n</Location>\n\
         <LocationMatch ^/(a|c)/>\nHeader set X-Last match\n<If true>\nHeader set X-In if\n</If>\n</LocationMatch>\n\
         <Location /w*/x>\nHeader set X-Wild 1\n</Location>\n\
         <Proxy *>\nHeader set X-Last proxy\nHeader set X-Proxy 1\n</Proxy>\n\
         <ProxyMatch /deep$>\nHeader set X-Deep 1\n</ProxyMatch>\n\
         <Location /slash/>\nHeader set X-Slash 1\n</Location>\n",
        &[
            ("GET /", &[]),
            ("GET /?if", &[]),
            ("GET /?else", &[]),
            ("GET /a", &[]),
            ("GET /ab", &[]),
            ("GET /a/b/c", &[]),
            ("GET /a/bc", &[]),
            ("GET /%61/b", &[]),
            ("GET //a//b", &[]),
            ("GET /c/d?if", &[]),
            ("GET /wild/x", &[]),
            ("GET /w/y/x", &[]),
            ("GET /x/deep", &[]),
            ("GET /slash", &[]),
            ("GET /slash/", &[]),
        ],
    );
}

#[test]
fn access_is_checked_before_requests_are_proxied() {
    compare(
        "SetEnvIf X-Let ^in$ let\nSetEnv late 1\n\
         <Proxy balancer://closed>\nBalancerMember http://MEMBER\nRequire all denied\n</Proxy>\n\
         <Proxy balancer://open>\nBalancerMember http://MEMBER\nRequire all granted\n</Proxy>\n\
         ProxyPass /closed balancer://closed\nProxyPass /open balancer://open\nProxyPass / http://MEMBER/\n\
         <Location /denied>\nRequire all denied\n</Location>\n\
         <Location /denied/not>\nRequire all granted\n</Location>\n\
         <Location /ip>\nRequire ip 10 192.0.2.0/24\n</Location>\n\
         <Location /loop>\nRequire ip 127.0.0\n</Location>\n\
         <Location /local>\nRequire local\n</Location>\n\
         <Location /env>\nRequire env let\n</Location>\n\
         <Location /late>\nRequire env late\n</Location>\n\
         <Location /method>\nRequire method GET HEAD\n</Location>\n\
         <Location /expr>\nRequire expr req('X-Key') == 'k'\n</Location>\n\
         <Location /all>\n<RequireAll>\nRequire local\nRequire not env let\n</RequireAll>\n</Location>\n\
         <Location /and>\nRequire all denied\n</Location>\n\
         <Location /and/or>\nAuthMerging Or\nRequire local\n</Location>\n\
         <Location /and/and>\nAuthMerging And\nRequire local\n</Location>\n\
         <Location /old>\nOrder deny,allow\nDeny from all\nAllow from env=let\n</Location>\n\
         <Location /older>\nOrder allow,deny\nAllow from 127\nDeny from env=let\n</Location>\n\
         <If \"%{QUERY_STRING} == 'no'\">\nRequire all denied\n</If>\n",
        &[
            ("GET /", &[]),
            ("GET /?no", &[]),
            ("GET /closed/x", &[]),
            ("GET /open/x", &[]),
            ("GET /denied", &[]),
            ("POST /denied/x", &["Content-Length: 0"]),
            ("GET /denied/not", &[]),
            ("GET /ip", &[]),
            ("GET /loop", &[]),
            ("GET /local", &[]),
            ("GET /env", &[]),
            ("GET /env", &["X-Let: in"]),
            ("GET /late", &[]),
            ("GET /method", &[]),
            ("DELETE /method", &[]),
            ("GET /expr", &[]),
            ("GET /expr", &["X-Key: k"]),
            ("GET /all", &[]),
            ("GET /all", &["X-Let: in"]),
            ("GET /and", &[]),
            ("GET /and/or", &[]),
            ("GET /and/and", &[]),
            ("GET /old", &[]),
            ("GET /old", &["X-Let: in"]),
            ("GET /older", &[]),
            ("GET /older", &["X-Let: in"]),
        ],
    );
}

#[test]
fn fields_are_edited_in_httpds_order() {
    compare(
        "<Proxy balancer://b>\nBalancerMember http://MEMBER route=r1\n</Proxy>\n\
         ProxyPass /b balancer://b/ stickysession=S\n\
         ProxyPass / http://MEMBER/\n\
         Header always set X-Always a\nHeader always add X-Member two\nHeader always unset X-Twice\n\
         Header set X-Set s\nHeader append X-Twice c\nHeader merge X-Merge m\nHeader merge X-Merge m\n\
         Header setifempty X-Member not\nHeader setifempty X-New n\n\
         Header edit X-Set s(.*) $0-$1e\nHeader edit* X-Set - +\n\
         Header unset Content-Type env=bare\n\
         Header echo ^X-Echo\n\
         Header set X-Env \"%{seen}e %{unseen}e\"\n\
         Header set X-Expr expr=%{REQUEST_METHOD}:%{resp:X-Member}\n\
         Header set X-Where here \"expr=%{REQUEST_URI} =~ m#^/w#\"\n\
         Header add Set-Cookie \"R=.%{BALANCER_WORKER_ROUTE}e; path=/\" env=BALANCER_ROUTE_CHANGED\n\
         Header set X-Route %{BALANCER_WORKER_ROUTE}e env=BALANCER_WORKER_ROUTE\n\
         SetEnv seen \"a b\"\nSetEnvIf X-Bare . bare\n\
         ProxyPassReverseCookiePath /i/ /l/\nProxyPassReverseCookieDomain back.test front.test\n\
         RequestHeader set X-Set \"%{seen}e\"\nRequestHeader append X-App b\nRequestHeader unset X-Gone\n\
         RequestHeader edit X-Edit a b\nRequestHeader add X-App c\nRequestHeader set X-Early e early\n\
         RequestHeader set X-If y env=bare\n\
         <Location /rh>\nRequestHeader set Host other.test\nRequestHeader set X-Forwarded-For 9.9.9.9\n\
         RequestHeader set Connection X-Foo\nRequestHeader set X-Foo bar\n</Location>\n\
         <Location /keep>\nProxyPreserveHost On\nRequestHeader set Host other.test\n</Location>\n\
         <Location /server>\nHeader unset Server\nHeader set X-Server \"expr=%{resp:Server}\"\n</Location>\n",
        &[
            ("GET /", &[]),
            ("GET /w", &["X-Echo-1: one", "X-Echo-2: two"]),
            (
                "GET /x",
                &["X-Bare: 1", "X-Gone: g", "X-Edit: aa", "X-App: a"],
            ),
            ("GET /b/x", &[]),
            ("GET /b/x", &["Cookie: S=1.other"]),
            ("GET /b/x", &["Cookie: S=1.r1"]),
            ("GET /rh", &[]),
            ("GET /keep", &[]),
            ("GET /err", &["X-Status: 404"]),
            ("HEAD /", &[]),
        ],
    );
}

#[test]
fn variables_are_set_in_httpds_order() {
    compare(
        "ProxyPass /np http://MEMBER/ \nProxyPass / http://MEMBER/\n\
         SetEnvIf Request_URI ^/np no-proxy\nSetEnvIf Host (.*)\\.test host=$1\n\
         SetEnvIfNoCase User-Agent BOT bot=yes\nBrowserMatch ^Moz moz !bot\n\
         SetEnvIfExpr \"%{HTTP_HOST} =~ /^(s.)/\" begin=$1\n\
         SetEnvIf host ^site chained=1\n\
         SetEnv a one\nSetEnv gone here\nSetEnv host over\n\
         <Location /l>\nSetEnv a two\nUnsetEnv gone\nSetEnvIf Remote_Addr ^127 local=in\n</Location>\n\
         Header set X-A %{a}e\nHeader set X-Gone %{gone}e\nHeader set X-Host %{host}e\nHeader set X-Bot %{bot}e\n\
         Header set X-Moz %{moz}e\nHeader set X-Begin %{begin}e\nHeader set X-Chained %{chained}e\nHeader set X-Local %{local}e\n",
        &[
            ("GET /", &[]),
            ("GET /l/x", &[]),
            ("GET /np", &[]),
            ("GET /", &["User-Agent: robot"]),
            ("GET /", &["User-Agent: Moz bot"]),
        ],
    );
}

#[test]
fn redirects_come_where_httpd_has_them() {
    compare(
        "Redirect permanent /red http://elsewhere/x\nRedirect gone /local/gone\nRedirectMatch ^/local/(.*)\\.gif$ http://img/$1.png\n\
         Redirect seeother /local/see http://see/\nRedirectPermanent /local/perm http://perm/\nRedirect 404 /local/none\n\
         Redirect /local/there /here\n\
         ProxyPass /local !\nProxyPass / http://MEMBER/\n\
         <Location /loc>\nRedirect 302 /loc http://loc/\n</Location>\n\
         <Location /whole>\nRedirect http://whole/base\n</Location>\n\
         <Location /gone>\nRedirect gone\n</Location>\n\
         <Location /shut>\nRequire all denied\nRedirect /shut http://shut/\n</Location>\n\
         <LocationMatch ^/m/(.*)>\nRedirectMatch 307 ^/m/(.*) http://m/$1\n</LocationMatch>\n\
         Header always set X-Always a\nHeader set X-Set s\n",
        &[
            ("GET /red/y", &[]),
            ("GET /local/gone", &[]),
            ("GET /local/a/b.gif", &[]),
            ("GET /local/see", &[]),
            ("GET /local/see/more?q=1", &[]),
            ("GET /local/seen", &[]),
            ("GET /local/perm/a%20b", &[]),
            ("GET /local/none", &[]),
            ("GET /local/there", &[]),
            ("GET /loc/x", &[]),
            ("GET /whole/x", &[]),
            ("GET /gone", &[]),
            ("GET /shut", &[]),
            ("POST /m/x?y", &["Content-Length: 0"]),
        ],
    );
}

#[test]
fn errors_are_answered_as_configured() {
    compare(
        "ErrorDocument 403 \"no entry\"\nErrorDocument 404 /pages/404?x\nErrorDocument 410 http://elsewhere/gone\nErrorDocument 503 /denied/page\n\
         ProxyPass /local !\nProxyPass /down balancer://none/\nProxyPass / http://MEMBER/\n\
         <Proxy balancer://none>\n</Proxy>\n\
         Redirect gone /local/gone\n\
         Header always set X-Always a\n\
         <Location /denied>\nRequire all denied\n</Location>\n\
         <Location /denied/plain>\nErrorDocument 403 default\n</Location>\n\
         <Location /over>\nProxyErrorOverride On\n</Location>\n\
         <Location /some>\nProxyErrorOverride On 404 500\n</Location>\n",
        &[
            ("GET /denied", &[]),
            ("GET /denied/plain", &[]),
            ("GET /local/x", &["X-A: b"]),
            ("POST /local/x", &["Content-Length: 0"]),
            ("GET /local/gone", &[]),
            ("GET /down", &[]),
            ("GET /over", &["X-Status: 500"]),
            ("GET /over", &["X-Status: 403"]),
            ("GET /over", &["X-Status: 401"]),
            ("GET /over", &["X-Status: 302"]),
            ("GET /some", &["X-Status: 500"]),
            ("GET /some", &["X-Status: 502"]),
            ("GET /else", &["X-Status: 500"]),
        ],
    );
}

#[test]
fn patterns_lead_to_the_same_paths() {
    compare(
        "<Proxy balancer://b>\nBalancerMember http://MEMBER\n</Proxy>\n\
         ProxyPassMatch ^/bal(/.*)$ balancer://b$1\n\
         ProxyPassMatch ^/img/(.*)\\.(gif|png)$ http://MEMBER/pictures/$2/$1\n\
         ProxyPassMatch ^/plain/ http://MEMBER\n\
         ProxyPass ~ ^/tilde/([0-9]+) http://MEMBER/n/$1\n\
         ProxyPassMatch ^/not !\n\
         <LocationMatch ^/loc/(.+)$>\nProxyPassMatch http://MEMBER/l/$1\n</LocationMatch>\n",
        &[
            ("GET /bal/x?y=1", &[]),
            ("GET /img/a/b.gif", &[]),
            ("GET /plain/zz", &[]),
            ("GET /tilde/12/3", &[]),
            ("GET /not", &[]),
            ("GET /loc/a%20b", &[]),
            ("GET /none", &[]),
        ],
    );
}

#[test]
fn via_and_max_forwards_are_as_httpd_sends_them() {
    compare(
        "ProxyVia On\nProxyMaxForwards 5\nProxyPass / http://MEMBER/\n",
        &[
            ("GET /", &[]),
            ("GET /", &["Via: 1.1 first"]),
            ("GET /", &["Host: other.test:99"]),
            ("GET /", &["Max-Forwards: 3"]),
            ("GET /", &["Max-Forwards: 0"]),
        ],
    );
    compare(
        "ProxyVia Block\nProxyMaxForwards -1\nProxyPass / http://MEMBER/\n",
        &[
            ("GET /", &[]),
            ("GET /", &["Via: 1.1 first", "Max-Forwards: 2"]),
        ],
    );
}

#[test]
fn limits_are_for_their_methods_alone() {
    compare(
        "ProxyPass / http://MEMBER/\n\
         <Location /post>\n<Limit POST PUT>\nRequire all denied\n</Limit>\n</Location>\n\
         <Location /get>\n<LimitExcept GET>\nRequire all denied\n</LimitExcept>\n</Location>\n\
         <Location /both>\nRequire ip 10\n<Limit POST>\nRequire local\n</Limit>\n</Location>\n\
         <Location /head>\n<Limit HEAD>\nRequire all denied\n</Limit>\n</Location>\n\
         <Location /all>\n<Limit POST>\n<RequireAll>\nRequire all granted\nRequire not local\n</RequireAll>\n</Limit>\n</Location>\n\
         <Location /old>\n<Limit GET>\nOrder allow,deny\nAllow from 10\n</Limit>\n</Location>\n\
         <Location /older>\n<LimitExcept GET POST>\nOrder deny,allow\nDeny from all\n</LimitExcept>\n</Location>\n\
         <Location /oldest>\nOrder deny,allow\nDeny from all\n<Limit POST>\nAllow from 127\n</Limit>\n</Location>\n\
         <Location /satisfied>\nSatisfy All\nRequire all granted\nOrder deny,allow\nDeny from all\n</Location>\n",
        &[
            ("GET /post", &[]),
            ("POST /post", &["Content-Length: 0"]),
            ("PUT /post", &["Content-Length: 0"]),
            ("GET /get", &[]),
            ("HEAD /get", &[]),
            ("POST /get", &["Content-Length: 0"]),
            ("DELETE /get", &[]),
            ("GET /both", &[]),
            ("PUT /both", &["Content-Length: 0"]),
            ("POST /both", &["Content-Length: 0"]),
            ("GET /head", &[]),
            ("GET /all", &[]),
            ("POST /all", &["Content-Length: 0"]),
            ("GET /old", &[]),
            ("POST /old", &["Content-Length: 0"]),
            ("GET /older", &[]),
            ("DELETE /older", &[]),
            ("GET /oldest", &[]),
            ("POST /oldest", &["Content-Length: 0"]),
            ("GET /satisfied", &[]),
        ],
    );
}

#[test]
fn names_are_looked_up_for_access() {
    // Both ask the hosts file first, in which this host has a name.
    compare(
        "ProxyPass / http://MEMBER/\n\
         <Location /host>\nRequire host localhost\n</Location>\n\
         <Location /case>\nRequire host LocalHost\n</Location>\n\
         <Location /part>\nRequire host calhost\n</Location>\n\
         <Location /other>\nRequire host example.test .local\n</Location>\n\
         <Location /second>\nRequire host example.test localhost\n</Location>\n\
         <Location /comment>\nRequire host example.test# localhost\n</Location>\n\
         <Location /none>\nRequire host\n</Location>\n\
         <Location /forward>\nRequire forward-dns localhost\n</Location>\n\
         <Location /not>\n<RequireAll>\nRequire all granted\nRequire not host localhost\n</RequireAll>\n</Location>\n\
         <Location /later>\nRequire ip 127\nRequire host example.test\n</Location>\n\
         <Location /allow>\nOrder deny,allow\nDeny from all\nAllow from localhost\n</Location>\n\
         <Location /deny>\nOrder allow,deny\nAllow from all\nDeny from localhost\n</Location>\n\
         RequestHeader append X-Early once early\n\
         Header always set X-Always a\n",
        &[
            ("GET /host", &[]),
            ("GET /host", &["X-Early: none"]),
            ("GET /case", &[]),
            ("GET /part", &[]),
            ("GET /other", &[]),
            ("GET /second", &[]),
            ("GET /comment", &[]),
            ("GET /none", &[]),
            ("GET /forward", &[]),
            ("GET /not", &[]),
            ("GET /later", &[]),
            ("GET /allow", &[]),
            ("GET /deny", &[]),
            ("GET /else", &[]),
        ],
    );
}

#[test]
fn satisfy_any_lets_either_allow() {
    compare(
        "ProxyPass / http://MEMBER/\n\
         <Location /shut>\nRequire all denied\n</Location>\n\
         <Location /shut/open>\nSatisfy Any\n</Location>\n\
         <Location /shut/deny>\nSatisfy Any\nOrder deny,allow\nDeny from all\n</Location>\n\
         <Location /shut/allow>\nSatisfy Any\nOrder deny,allow\nDeny from all\nAllow from 127\n</Location>\n\
         <Location /shut/get>\n<Limit GET>\nSatisfy Any\n</Limit>\n</Location>\n\
         <Location /shut/back>\n<Limit GET>\nSatisfy Any\n</Limit>\nSatisfy All\n</Location>\n\
         <Location /either>\nSatisfy Any\nOrder deny,allow\nDeny from all\nRequire env let\n</Location>\n\
         <Location /both>\nSatisfy All\nOrder deny,allow\nDeny from all\nRequire env let\n</Location>\n\
         <Location /unasked>\nSatisfy Any\nOrder deny,allow\nDeny from all\n</Location>\n\
         SetEnvIf X-Let . let\n",
        &[
            ("GET /shut", &[]),
            ("GET /shut/open", &[]),
            ("GET /shut/deny", &[]),
            ("GET /shut/allow", &[]),
            ("GET /shut/get", &[]),
            ("POST /shut/get", &["Content-Length: 0"]),
            ("GET /shut/back", &[]),
            ("GET /either", &[]),
            ("GET /either", &["X-Let: a"]),
            ("GET /both", &["X-Let: a"]),
            ("GET /unasked", &[]),
        ],
    );
}

#[test]
fn encoded_slashes_are_treated_alike() {
    let requests: &[(&str, &[&str])] = &[
        ("GET /app/a%2Fb?c%2Fd", &[]),
        ("GET /app/a%2fb%20c", &[]),
        ("GET /app%2Fa", &[]),
        ("GET /raw/a%2Fb%20c", &[]),
        ("GET /app/a%25b", &[]),
        ("GET /app/a%252Fb", &[]),
        ("GET /app/a%2F/../b", &[]),
        ("GET /re/a%2Fb", &[]),
        ("GET /sent/a%2Fb%3F", &[]),
        ("GET /app/%00", &[]),
    ];
    for setting in ["Off", "On", "NoDecode"] {
        // httpd takes the decoded percent sign for the beginning of an escape: docs/differences.md.
        let differs = |line: &str| setting == "NoDecode" && line.ends_with("%25b");
        let requests: Vec<_> = (requests.iter().copied())
            .filter(|(line, _)| !differs(line))
            .collect();
        compare(
            &format!(
                "AllowEncodedSlashes {setting}\n\
                 Redirect /sent http://other.test/\n\
                 RewriteEngine On\nRewriteRule ^/re/(.*) http://MEMBER/rewritten/$1 [P]\n\
                 ProxyPass /raw http://MEMBER/raw nocanon\n\
                 ProxyPass /app http://MEMBER/app\n"
            ),
            &requests,
        );
    }
}

#[test]
fn virtual_hosts_inherit_proxypass_and_not_encoded_slashes() {
    compare(
        "ProxyPass /main http://MEMBER/main\nAllowEncodedSlashes NoDecode\n\
         <VirtualHost *>\nServerName heir.test\nProxyPass /own http://MEMBER/own\n</VirtualHost>\n\
         <VirtualHost *>\nServerName alone.test\nProxyPassInherit Off\nAllowEncodedSlashes NoDecode\nProxyPass /own http://MEMBER/own\n</VirtualHost>\n",
        &[
            ("GET /main/x", &["Host: heir.test"]),
            ("GET /own/a%2Fb", &["Host: heir.test"]),
            ("GET /own/a%2Fb", &["Host: alone.test"]),
            ("GET /main/x", &["Host: alone.test"]),
            ("GET /own/x", &["Host: alone.test"]),
        ],
    );
}

#[test]
fn mapped_and_interpolated_routes_lead_to_the_same_paths() {
    compare(
        "<Proxy balancer://b>\nBalancerMember http://MEMBER\n</Proxy>\n\
         SetEnvIf X-Dir (.+) dir=$1\nSetEnv late no\n\
         ProxyPass /srv/closed !\n\
         ProxyPass /srv/shut ! mapping=servlet\n\
         ProxyPass /srv http://MEMBER/s mapping=servlet\n\
         ProxyPass /tail/ http://MEMBER/t/ mapping=servlet\n\
         ProxyPass /enc http://MEMBER/e mapping=encoded\n\
         ProxyPass /bal/ balancer://b/in/ mapping=servlet\n\
         ProxyPassMatch ^/re/([^/]*)/(.*)$ http://MEMBER/r/$2/$1 mapping=encoded\n\
         ProxyPassInterpolateEnv On\n\
         ProxyPass /fill http://MEMBER/f/${dir}/${late}x/ interpolate\n\
         ProxyPass /plain http://MEMBER/p/ interpolate\n\
         ProxyPass /fb balancer://b/${dir} interpolate\n\
         <Location /fill/off>\nProxyPassInterpolateEnv Off\n</Location>\n\
         <Location /srv/deny>\nRequire all denied\n</Location>\n\
         <Location /enc/a%2Fb>\nHeader set X-Encoded yes\n</Location>\n\
         ProxyPass / http://MEMBER/\n",
        &[
            ("GET /srv", &[]),
            ("GET /srv/", &[]),
            ("GET /srv/x;v=1/y?q", &[]),
            ("GET /srv;v=1/x", &[]),
            ("GET /srv;v=1", &[]),
            ("GET /srvx", &[]),
            ("GET /srv/a%2Fb%20c", &[]),
            ("GET /srv/closed/x", &[]),
            ("GET /srv/shut/x", &[]),
            ("GET /srv/shut;v/x", &[]),
            ("GET /srv/deny", &[]),
            ("GET /srv/deny;v=1/x", &[]),
            ("GET /srv;v/deny", &[]),
            ("GET /srv/%64eny", &[]),
            ("GET /x/..;/srv/y", &[]),
            ("GET /srv/..;v/y", &[]),
            ("GET /srv//y;a//z", &[]),
            ("GET /tail", &[]),
            ("GET /tail/x;v", &[]),
            ("GET /tail;v/x;w", &[]),
            ("GET /enc/a%2Fb/c%3Fd?e%2F", &[]),
            ("GET /enc%2Fx", &[]),
            ("GET /enc/%41%7e%2e/./b", &[]),
            ("GET /encx", &[]),
            ("GET /bal/x;v=1/y", &[]),
            ("GET /re/a%2Fb/c?d", &[]),
            ("GET /fill/x", &["X-Dir: one"]),
            ("GET /fill/x?y", &["X-Dir: a b/c"]),
            ("GET /fill/x", &[]),
            ("GET /fill/off", &["X-Dir: one"]),
            ("GET /plain/x", &["X-Dir: one"]),
            ("GET /fb/x", &["X-Dir: one"]),
        ],
    );
}

#[test]
fn notes_of_fields_can_be_asked_for() {
    compare(
        "ProxyPass / http://MEMBER/\n\
         Header note X-Member member\nHeader note X-Twice twice\nHeader note X-Nothing nothing\n\
         Header set X-A \"expr=%{note:member}-%{note:twice}-%{note:nothing}-%{note:MEMBER}\"\n\
         Header set X-B yes \"expr=note('twice') == 'a'\"\n\
         Header always set X-C c\nHeader always note X-C c\nHeader set X-D \"expr=%{note:c}\"\n",
        &[("GET /", &[]), ("GET /x", &["X-Status: 404"])],
    );
}

#[test]
fn what_comes_back_is_filled_in_alike() {
    compare(
        "SetEnvIf X-Dir (.+) dir=$1\nSetEnv late no\n\
         ProxyPassInterpolateEnv On\n\
         ProxyPassReverse /front/${dir}/${late} http://inner.test/${dir}/ interpolate\n\
         ProxyPassReverse /not/${dir}/ http://plain.test/\n\
         ProxyPassReverseCookiePath /${dir}/ /out/${dir}/${section}${late} interpolate\n\
         ProxyPassReverseCookieDomain ${dir}.test front-${dir}.test interpolate\n\
         <Location /off>\nProxyPassInterpolateEnv Off\n</Location>\n\
         <Location /in>\nSetEnvIf X-Dir . section=s\n</Location>\n\
         ProxyPass / http://MEMBER/\n",
        &[
            ("GET /", &["X-Dir: i", "X-Place: http://inner.test/i/x"]),
            (
                "GET /",
                &["X-Dir: back", "X-Place: http://inner.test/back/x"],
            ),
            ("GET /in", &["X-Dir: i", "X-Place: http://inner.test/i/x"]),
            ("GET /off", &["X-Dir: i", "X-Place: http://inner.test/i/x"]),
            ("GET /off", &["X-Dir: i", "X-Place: http://plain.test/x"]),
            ("GET /", &["X-Dir: i", "X-Place: http://plain.test/x"]),
            ("GET /", &["X-Place: http://inner.test//x"]),
        ],
    );
}
