//! mod_rewrite: the same rules and requests on both.

use super::{
    peers::{Pair, is_here},
    policies::compare,
};

#[test]
fn rules_lead_to_the_same_members_and_paths() {
    compare(
        "RewriteEngine On\n\
         <Proxy balancer://b>\nBalancerMember http://MEMBER\n</Proxy>\n\
         RewriteRule ^/app/(.*)$ http://MEMBER/inner/$1 [P,L]\n\
         RewriteRule ^/bal(/.*) balancer://b$1 [P]\n\
         RewriteRule ^/uri balancer://b%{REQUEST_URI} [P,L]\n\
         RewriteRule ^/up/([^/]+)/(.*) http://MEMBER/$2?user=$1&host=%{HTTP_HOST} [P,QSA]\n\
         RewriteRule ^/set/(.*) http://MEMBER/$1?only=1 [P]\n\
         RewriteRule ^/none/(.*) http://MEMBER/$1? [P]\n\
         RewriteRule ^/qsd/(.*) http://MEMBER/$1 [P,QSD]\n\
         RewriteRule ^/raw/(.*) http://MEMBER/a%20b/$1 [P,NE]\n\
         RewriteRule ^/enc/(.*) \"http://MEMBER/a b/$1\" [P]\n\
         RewriteRule ^/b/(.*) http://MEMBER/b?v=$1 [P,B]\n\
         RewriteRule ^/bnp/(.*) http://MEMBER/b?v=$1 [P,B,BNP]\n\
         RewriteRule ^/bonly/(.*) http://MEMBER/b?v=$1 [P,B=&+]\n\
         RewriteRule ^/old/(.*) /new/$1 [PT]\n\
         RewriteRule ^/oldq/(.*) /new/$1?q=$1 [PT,QSA]\n\
         RewriteRule ^/local/(.*) /nowhere/$1 [L]\n\
         RewriteRule ^/relative relative\n\
         RewriteRule ^/case/A$ /new/nocase [NC,PT]\n\
         RewriteRule !^/ /never [PT]\n\
         ProxyPass /new http://MEMBER/newer\n\
         ProxyPass / http://MEMBER/\n",
        &[
            ("GET /app/x/y?q=1", &[]),
            ("GET /app/a%20b%3Fc", &[]),
            ("GET /app/", &[]),
            ("GET /bal/x?y", &[]),
            ("GET /uri/z?y=%20", &[]),
            ("GET /up/joe/file?z=1", &[]),
            ("GET /up/joe/file", &[]),
            ("GET /set/x?gone=1", &[]),
            ("GET /none/x?gone=1", &[]),
            ("GET /qsd/x?gone=1", &[]),
            ("GET /raw/x?y=1", &[]),
            ("GET /raw/x%20y", &[]),
            ("GET /enc/x%C3%A4", &[]),
            ("GET /b/a%20b&c%2B/d", &[]),
            ("GET /bnp/a%20b&c", &[]),
            ("GET /bonly/a%20b&c+d", &[]),
            ("GET /b/a%20b", &[]),
            ("GET /old/x?y", &[]),
            ("GET /old/a%20b", &[]),
            ("GET /oldq/x?y=2", &[]),
            ("GET /oldq/a%3Fb", &[]),
            ("GET /local/x", &[]),
            ("GET /relative", &[]),
            ("GET /case/a", &[]),
            ("GET /else?x", &[]),
            ("GET //app//x", &[]),
        ],
    );
}

#[test]
fn clients_are_sent_to_the_same_places() {
    compare(
        "RewriteEngine On\n\
         RewriteRule ^/perm/(.*) https://www.site.test/$1 [R=301,L]\n\
         RewriteRule ^/temp/(.*) http://other.test/$1 [R]\n\
         RewriteRule ^/implicit/(.*) http://other.test/$1\n\
         RewriteRule ^/here/(.*) /there/$1 [R=303]\n\
         RewriteRule ^/https$ https://%{HTTP_HOST}%{REQUEST_URI} [R=permanent,L]\n\
         RewriteRule ^/ne/(.*) http://other.test/$1#part [R,NE]\n\
         RewriteRule ^/esc/(.*) http://other.test/$1#part [R]\n\
         RewriteRule ^/q/(.*) http://other.test/$1?new=%20 [R]\n\
         RewriteRule ^/qsa/(.*) http://other.test/?p=$1 [R,QSA]\n\
         RewriteRule ^/seeother /x [R=seeother]\n\
         RewriteRule ^/odd /x [R=308]\n\
         RewriteRule ^/forbidden - [F]\n\
         RewriteRule ^/gone/ /ignored [G]\n\
         RewriteRule ^/teapot - [R=451]\n\
         RewriteRule ^/busy - [R=503,L]\n\
         RewriteRule ^/chain(.*) http://one.test$1 [R]\n\
         RewriteRule one\\.test http://two.test/ [R=307,L]\n\
         RewriteRule ^/co - [CO=kind:one:.site.test:0:/path:secure:httponly:Lax]\n\
         RewriteRule ^/co/more - [CO=;semi;a:b;.site.test,CO=kind:two:.x.test]\n\
         RewriteRule ^/co/go http://other.test/ [R]\n\
         Header always set X-Always a\n\
         <Location /perm>\nHeader always set X-Perm p\n</Location>\n\
         ProxyPass / http://MEMBER/\n",
        &[
            ("GET /perm/x?y=1", &[]),
            ("GET /perm/a%20b", &[]),
            ("GET /temp/a%C3%A4%22", &[]),
            ("GET /temp/", &["Host: site.test:8080"]),
            ("GET /implicit/x", &[]),
            ("GET /here/x?y", &[]),
            ("GET /here/x?y", &["Host: site.test:8080"]),
            ("GET /https?z", &[]),
            ("GET /ne/x", &[]),
            ("GET /ne/a%20b", &[]),
            ("GET /esc/x", &[]),
            ("GET /q/x?old=1", &[]),
            ("GET /qsa/x?old=%21", &[]),
            ("GET /seeother", &[]),
            ("GET /odd", &[]),
            ("POST /forbidden", &["Content-Length: 0"]),
            ("GET /gone/x", &[]),
            ("GET /teapot", &[]),
            ("GET /busy", &[]),
            ("GET /chain/x", &[]),
            ("GET /co", &[]),
            ("GET /co/more", &[]),
            ("GET /co/go", &[]),
            ("GET /plain", &[]),
        ],
    );
}

#[test]
fn conditions_hold_for_the_same_requests() {
    compare(
        "RewriteEngine On\n\
         SetEnvIf X-Kind (.+) kind=$1\n\
         RewriteMap lc int:tolower\n\
         RewriteCond %{HTTP:Upgrade} =websocket [NC]\n\
         RewriteCond %{HTTP:Connection} upgrade [NC]\n\
         RewriteRule ^/ws/(.*) http://MEMBER/socket/$1 [P,L]\n\
         RewriteCond %{HTTP_HOST} ^www\\.(.+)$ [NC]\n\
         RewriteRule ^(.*)$ https://%1$1 [R=301,L]\n\
         RewriteCond %{REMOTE_ADDR} !^127\\.\n\
         RewriteRule ^/inside - [F]\n\
         RewriteCond %{REMOTE_ADDR} ^10\\. [OR]\n\
         RewriteCond %{ENV:kind} =in [OR]\n\
         RewriteCond %{HTTPS} on\n\
         RewriteRule ^/or(.*) /or-yes$1 [PT]\n\
         RewriteCond %{REQUEST_METHOD} ^(POST|PUT)$\n\
         RewriteRule ^/m - [E=method:%1,E=uri:%{REQUEST_URI},E=!kind]\n\
         RewriteCond %{QUERY_STRING} (?:^|&)v=([0-9]+)\n\
         RewriteCond %1 -gt5\n\
         RewriteRule ^/num /num/%1? [PT]\n\
         RewriteCond %{QUERY_STRING} -ne7\n\
         RewriteCond %{QUERY_STRING} >aa\n\
         RewriteCond %{QUERY_STRING} <zzz\n\
         RewriteRule ^/text /text-yes [PT]\n\
         RewriteCond expr \"%{REQUEST_URI} =~ m#^/ex(.)#\"\n\
         RewriteRule ^/ex /expr-%1 [PT]\n\
         RewriteCond %{HTTP_COOKIE} \"\"\n\
         RewriteCond %{HTTP_USER_AGENT} =\"\"\n\
         RewriteRule ^/empty /empty-yes [PT]\n\
         RewriteCond $1 !=skip\n\
         RewriteRule ^/group/(.*) /group-$1/${lc:$1} [PT]\n\
         RewriteCond %{THE_REQUEST} \"^GET /line\\?x HTTP/1\"\n\
         RewriteRule ^/line /line-yes [PT]\n\
         RewriteCond %{SERVER_NAME}:%{SERVER_PORT} ^site.test:\n\
         RewriteCond %{REQUEST_SCHEME}-%{SERVER_PROTOCOL} =http-HTTP/1.1\n\
         RewriteRule ^/server /server-yes/%{SERVER_ADDR} [PT]\n\
         RewriteCond %{REQUEST_FILENAME} changed\n\
         RewriteRule ^/name /name-yes [PT]\n\
         RewriteRule ^/x1 /x2\n\
         RewriteRule ^/x2 /x3 [S=1]\n\
         RewriteRule ^/x3 /skipped\n\
         RewriteRule ^/x3 /x4 [PT]\n\
         RewriteRule ^/c1 /c2 [C]\n\
         RewriteRule ^/no /never [C]\n\
         RewriteRule ^/c2 /not-reached [PT]\n\
         RewriteRule ^/c2 /c3 [PT]\n\
         RewriteRule ^/n/(.*)_(.*) /n/$1-$2 [N]\n\
         RewriteRule ^/n/ - [PT]\n\
         RewriteRule ^/loop(.*) /loop$1 [N=5]\n\
         RewriteRule ^/grow(.*) /grow$1$1xxxxxxxx [N]\n\
         RewriteRule ^/end /ended [END]\n\
         RewriteRule ^/nomap /${nomap/x [PT]\n\
         RewriteRule ^/esc\\.(.) /\\$1-\\%{X}-$1 [PT]\n\
         Header set X-Method %{method}e\nHeader set X-Kind %{kind}e\nHeader set X-Uri %{uri}e\n\
         ProxyPass / http://MEMBER/\n",
        &[
            ("GET /ws/a", &["Upgrade: WebSocket"]),
            ("GET /x?y", &["Host: WWW.site.test"]),
            ("GET /inside", &[]),
            ("GET /or/x", &[]),
            ("GET /or/x", &["X-Kind: in"]),
            ("POST /m", &["Content-Length: 0", "X-Kind: in"]),
            ("GET /m", &["X-Kind: in"]),
            ("GET /num?v=3", &[]),
            ("GET /num?a&v=12", &[]),
            ("GET /text?abc", &[]),
            ("GET /text?7", &[]),
            ("GET /text?a", &[]),
            ("GET /text?zzzz", &[]),
            ("GET /ex9", &[]),
            ("GET /empty", &[]),
            ("GET /empty", &["User-Agent: a"]),
            ("GET /group/skip", &[]),
            ("GET /group/Go", &[]),
            ("GET /line?x", &[]),
            ("GET /server", &[]),
            ("GET /name", &[]),
            ("GET /x1", &[]),
            ("GET /c1", &[]),
            ("GET /n/a_b_c_d", &[]),
            ("GET /loop", &[]),
            ("GET /grow", &[]),
            ("GET /end", &[]),
            ("GET /nomap", &[]),
            ("GET /esc.z", &[]),
        ],
    );
}

#[test]
fn virtual_hosts_have_rules_of_their_own() {
    compare(
        "RewriteEngine On\n\
         RewriteRule ^/main /from-main [PT]\n\
         RewriteRule ^/both /both-main [PT]\n\
         ProxyPass / http://MEMBER/\n\
         <Location /off>\nRewriteEngine Off\n</Location>\n\
         RewriteRule ^/off /was-on [PT]\n\
         <VirtualHost *>\nServerName plain.test\n</VirtualHost>\n\
         <VirtualHost *>\nServerName own.test\nRewriteRule ^/own /from-own [PT]\nRewriteRule ^/both /both-own [PT]\n</VirtualHost>\n\
         <VirtualHost *>\nServerName after.test\nRewriteOptions Inherit\nRewriteRule ^/own /from-own [PT]\nRewriteRule ^/both /both-own [PT]\n</VirtualHost>\n\
         <VirtualHost *>\nServerName before.test\nRewriteOptions InheritBefore\nRewriteRule ^/both /both-own [PT]\n</VirtualHost>\n\
         <VirtualHost *>\nServerName off.test\nRewriteEngine Off\nRewriteRule ^/own /from-own [PT]\n<Location /on>\nRewriteEngine On\n</Location>\nRewriteRule ^/on /now-on [PT]\n</VirtualHost>\n",
        &[
            ("GET /main", &["Host: plain.test"]),
            ("GET /main", &["Host: own.test"]),
            ("GET /own", &["Host: own.test"]),
            ("GET /off", &["Host: own.test"]),
            ("GET /both", &["Host: own.test"]),
            ("GET /main", &["Host: after.test"]),
            ("GET /own", &["Host: after.test"]),
            ("GET /both", &["Host: after.test"]),
            ("GET /off", &["Host: after.test"]),
            ("GET /both", &["Host: before.test"]),
            ("GET /own", &["Host: off.test"]),
            ("GET /on", &["Host: off.test"]),
        ],
    );
}

#[test]
fn rules_of_sections_see_where_a_request_goes() {
    compare(
        "RewriteEngine On\n\
         ProxyPass /base !\nProxyPass /nobase !\nProxyPass /baseurl !\n\
         ProxyPass /b balancer://b/in\nProxyPass / http://MEMBER/\n\
         <Proxy balancer://b>\nBalancerMember http://MEMBER\nRewriteRule ^(.*)$ - [E=seen:$1]\n</Proxy>\n\
         RequestHeader set X-Seen %{seen}e\nRequestHeader set X-Again %{REDIRECT_seen}e\nRequestHeader set X-Late %{late}e\n\
         RequestHeader set X-A %{a}e\nRequestHeader set X-B %{b}e\nRequestHeader set X-C %{c}e\n\
         SetEnv late set\n\
         <Location /red>\nRewriteRule ^ https://%{HTTP_HOST}%{REQUEST_URI} [R=301,L]\n</Location>\n\
         <Location /relred>\nRewriteRule /relred/(.*) /else/$1 [R]\n</Location>\n\
         <Location /env>\nRewriteRule .* - [E=seen:%{REQUEST_URI},E=late:%{ENV:late}-%{ENV:seen}]\n</Location>\n\
         <Location /cond>\nRewriteCond %{HTTP:X-Go} !yes\nRewriteRule ^ - [F]\n</Location>\n\
         <Location /gone>\nRewriteRule ^ - [G]\n</Location>\n\
         <Location /shut>\nRequire all denied\nRewriteRule ^ - [G]\n</Location>\n\
         <Location /anew>\nRewriteRule /anew/(.*) /env/$1 [E=seen:first]\n</Location>\n\
         <Location /query>\nRewriteRule /query/(.*) /env/$1?new [QSA]\n</Location>\n\
         <Location /rel>\nRewriteRule /rel/(.*) other/$1\n</Location>\n\
         <Location /p>\nRewriteRule /p/(.*) http://MEMBER/via/$1 [P]\n</Location>\n\
         <Location /pb>\nRewriteRule /pb/(.*) balancer://b/via/$1?x [P,QSA]\n</Location>\n\
         <Location /ne>\nRewriteRule /ne/(.*) http://MEMBER/via/%2F$1 [P,NE]\n</Location>\n\
         <Location /onward>\nRewriteRule ^(proxy:http://[^/]*)/onward/(.*) $1/moved/$2\n</Location>\n\
         <Location /loop>\nRewriteRule /loop(.*) /loop/x$1\n</Location>\n\
         <Location /end>\nRewriteRule /end/(.*) /env/$1 [END]\n</Location>\n\
         <Location /pt>\nRewriteRule /pt/(.*) /env/$1 [PT]\n</Location>\n\
         <Location /inherit>\nRewriteRule ^ - [E=a:1]\n</Location>\n\
         <Location /inherit/b>\nRewriteOptions Inherit\nRewriteRule ^ - [E=b:%{ENV:a}1]\n</Location>\n\
         <Location /inherit/before>\nRewriteOptions InheritBefore\nRewriteRule ^ - [E=b:%{ENV:a}1]\n</Location>\n\
         <Location /inherit/c>\nRewriteRule ^ - [E=c:1]\n</Location>\n\
         <Location /inherit/engine>\nRewriteEngine On\n</Location>\n\
         <Location /inherit/off>\nRewriteEngine Off\nRewriteRule ^ - [E=c:1]\n</Location>\n\
         <Location /base>\nRewriteBase /else\nRewriteRule /base/(.*) rel/$1\n</Location>\n\
         <Location /baseurl>\nRewriteBase /else/\nRewriteRule /baseurl/(.*) rel/$1 [R]\n</Location>\n\
         <Location /nobase>\nRewriteCond %{REQUEST_URI} !rel\nRewriteRule /nobase/(.*) rel/$1\n</Location>\n\
         <LocationMatch ^/m[0-9]>\nRewriteRule ^ - [E=seen:match]\n</LocationMatch>\n\
         <If \"%{QUERY_STRING} == 'if'\">\nRewriteRule ^ /env/if? [L]\n</If>\n",
        &[
            ("GET /red/x?y", &[]),
            ("GET /relred/x%20z?y", &[]),
            ("GET /env/x", &[]),
            ("GET /cond", &[]),
            ("GET /cond", &["X-Go: yes"]),
            ("GET /gone", &[]),
            ("GET /shut", &[]),
            ("GET /anew/x?q", &[]),
            ("GET /anew/a%20b%2541", &[]),
            ("GET /anew/a%25zz", &[]),
            ("GET /query/x?q", &[]),
            ("GET /rel/x", &[]),
            ("GET /p/x%20y?q", &[]),
            ("GET /pb/x?q", &[]),
            ("GET /ne/x?q", &[]),
            ("GET /onward/x%20y?q", &[]),
            ("GET /loop", &[]),
            ("GET /end/x", &[]),
            ("GET /pt/x", &[]),
            ("GET /inherit", &[]),
            ("GET /inherit/b", &[]),
            ("GET /inherit/before", &[]),
            ("GET /inherit/c", &[]),
            ("GET /inherit/engine", &[]),
            ("GET /inherit/off", &[]),
            ("GET /base/x", &[]),
            ("GET /baseurl/x", &[]),
            ("GET /nobase/x", &[]),
            ("GET /m1", &[]),
            ("GET /b/x%20y", &[]),
            ("GET /else?if", &[]),
        ],
    );
}

#[test]
fn maps_are_looked_up_alike() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    // httpd's child reads it as nobody.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), mode).expect("readable");
    let file = dir.path().join("map");
    let text = "# key wrong\n key wrong\nkey value rest\nkey second\nnovalue\nnovalue \n\
                tab\tby-tab\nKey capital\nmany a|a|a\nsame b\npath /deep/er\nk#ey sign\n";
    std::fs::write(&file, text).expect("written");
    let configuration = format!(
        "RewriteEngine On\n\
         RewriteMap lc int:tolower\nRewriteMap t txt:{file}\nRewriteMap r rnd:{file}\nRewriteMap plain {file}\n\
         RewriteRule ^/t/(.*) /t-${{t:$1}} [PT]\n\
         RewriteRule ^/d/(.*) /d-${{t:$1|none-$1}} [PT]\n\
         RewriteRule ^/n/(.*) /n-${{t:${{lc:$1}}|${{t:same}}}} [PT]\n\
         RewriteRule ^/r/(.*) /r-${{r:$1|x}} [PT]\n\
         RewriteRule ^/p/(.*) /p-${{plain:$1}} [PT]\n\
         RewriteCond ${{t:%{{QUERY_STRING}}|no}} !=no\nRewriteRule ^/c /c-${{t:%{{QUERY_STRING}}}} [PT]\n\
         <Location /in>\nRewriteRule /in/(.*) - [E=found:${{t:$1|none}}]\n</Location>\n\
         RequestHeader set X-Found %{{found}}e\n\
         ProxyPass / http://MEMBER/\n",
        file = file.display()
    );
    compare(
        &configuration,
        &[
            ("GET /t/key", &[]),
            ("GET /t/Key", &[]),
            ("GET /t/novalue", &[]),
            ("GET /t/tab", &[]),
            ("GET /t/path", &[]),
            ("GET /t/k%23ey", &[]),
            ("GET /t/key%20value", &[]),
            ("GET /d/key", &[]),
            ("GET /d/nokey", &[]),
            ("GET /n/KEY", &[]),
            ("GET /n/none", &[]),
            ("GET /r/many", &[]),
            ("GET /r/same", &[]),
            ("GET /r/none", &[]),
            ("GET /p/key", &[]),
            ("GET /c?key", &[]),
            ("GET /c?none", &[]),
            ("GET /in/key", &[]),
            ("GET /in/none", &[]),
        ],
    );
}

#[test]
fn rule_can_say_who_answers() {
    if !is_here() {
        return;
    }
    let pair = Pair::start(
        "RewriteEngine On\nProxyPass /manage !\nProxyPass /within !\nProxyPass /shut !\nProxyPass /set !\nProxyPass / http://MEMBER/\n\
         RewriteRule ^/passed - [H=balancer-manager]\n\
         <Location /onward>\nRewriteRule ^ - [H=balancer-manager]\n</Location>\n\
         RewriteRule ^/manage - [H=balancer-manager]\n\
         RewriteRule ^/moved /elsewhere [PT,H=balancer-manager]\n\
         RewriteRule ^/proxied http://MEMBER/ [P,H=balancer-manager]\n\
         <Location /within>\nRewriteRule ^ - [H=balancer-manager]\n</Location>\n\
         <Location /shut>\nRequire all denied\nRewriteRule ^ - [H=balancer-manager]\n</Location>\n\
         <Location /set>\nSetHandler none\nRewriteRule ^ - [H=balancer-manager]\n</Location>\n",
    );
    // Of the manager's page its fields differ; whether it is the member's answer does not.
    let answer = |seen: super::peers::Seen| {
        let passed = seen.fields.iter().any(|(name, _)| name == "x-member");
        (seen.status, passed)
    };
    for path in [
        "/manage", "/passed", "/moved", "/proxied", "/onward", "/within", "/shut", "/set", "/else",
    ] {
        let (theirs, ours) = pair.ask(&format!("GET {path}"), &[]);
        assert_eq!(answer(theirs), answer(ours), "{path}\n{}", pair.log());
    }
}
