//! Variables that nothing sets.

use super::*;

#[test]
fn a_variable_that_a_line_sets_is_none_that_no_request_has() {
    for sets in [
        "SetEnvIf Request_URI ^/health dontlog",
        "SetEnvIf Request_URI ^/health DONTLOG=yes",
        "BrowserMatch probe dontlog",
        "SetEnv DontLog 1",
        "<Location /health>\nSetEnv dontlog 1\n</Location>",
        "RewriteRule ^/health - [E=dontlog:1]",
        "RewriteRule ^/(.*) - [E=$1:1]",
    ] {
        let loaded = read(format!(
            "{L}RewriteEngine On\n{sets}\nCustomLog l %h env=!dontlog"
        ));
        assert_eq!(said(&loaded, Severity::Warning), [], "{sets}");
        assert!(loaded.spec.is_some());
    }
    for known in ["SSL_CLIENT_VERIFY", "ssl_client_s_dn_cn", "REDIRECT_HTTPS"] {
        let loaded = read(format!("{L}CustomLog l %h env={known}"));
        assert_eq!(said(&loaded, Severity::Warning), [], "{known}");
    }
    let loaded = read(format!(
        "{L}SetEnvIf Request_URI x !dontlog\nCustomLog l %h env=!dontlog\nCustomLog l %h env=other"
    ));
    let messages = [
        (3, "no request ever has the variable dontlog"),
        (4, "no request ever has the variable other"),
    ];
    assert_eq!(said(&loaded, Severity::Warning), messages);
}

#[test]
fn variables_of_tls_that_are_not_here_are_warned_of() {
    let loaded = read(format!(
        "{L}RequestHeader set A \"%{{SSL_CLIENT_CERT}}s %{{SSL_SERVER_S_DN}}s %{{SSL_CLIENT_S_DN_Email}}s\"\n\
         Header set B \"expr=%{{SSL_SESSION_ID}}\"\n\
         LogFormat \"%{{SSL_CLIENT_A_KEY}}x\"\n\
         RewriteEngine On\nRewriteCond %{{SSL:SSL_SRP_USER}} a\nRewriteRule ^/x - [F]\n\
         <If \"reqenv('SSL_CLIENT_SAN_DNS_0') == 'x'\">\n</If>\n\
         SetEnvIf Host . SSL_MINE=1\nHeader set C %{{SSL_MINE}}e"
    ));
    let none = |name| format!("this version of sluice has no variable {name}: it is never set");
    let expected: Vec<(u32, String)> = [
        (2, "SSL_SERVER_S_DN"),
        (3, "SSL_SESSION_ID"),
        (4, "SSL_CLIENT_A_KEY"),
        (6, "SSL_SRP_USER"),
        (8, "SSL_CLIENT_SAN_DNS_0"),
    ]
    .map(|(line, name)| (line, none(name)))
    .into();
    let warned: Vec<(u32, String)> = said(&loaded, Severity::Warning)
        .into_iter()
        .map(|(line, message)| (line, message.to_owned()))
        .collect();
    assert_eq!(warned, expected);
    assert!(loaded.spec.is_some());
}
