//! TLS to members, and certificates of clients: inheritance, defaults, what is refused.

use super::*;
use crate::config::spec::{MemberTls, PeerVerify, Revocation};

/// The settings of the first member of a balancer or worker.
fn settings<'a>(spec: &'a Spec, name: &str) -> &'a MemberTls {
    let index = balancer(spec, name).members[0].tls;
    &spec.member_tls[index.expect("over TLS")]
}

fn errors(text: &str) -> Vec<(u32, String)> {
    let loaded = read(text);
    let said = said(&loaded, Severity::Error);
    said.into_iter()
        .map(|(line, message)| (line, message.to_owned()))
        .collect()
}

#[test]
fn members_are_verified_where_nothing_is_said() {
    let loaded = read("Listen 80\nSSLProxyEngine on\nProxyPass / https://H.test/\n");
    let notices = said(&loaded, Severity::Notice);
    assert!(notices[0].1.contains("are verified"), "{notices:?}");
    let spec = loaded.spec.expect("accepted");
    let member = &balancer(&spec, "https://h.test/").members[0];
    assert_eq!((member.port, member.url.as_str()), (443, "https://h.test/"));
    let tls = settings(&spec, "https://h.test/");
    assert_eq!((tls.verify, tls.depth), (PeerVerify::Require, None));
    assert!(tls.check_name && tls.check_expiry && tls.v12 && tls.v13);
    assert_eq!(tls.revocation, Revocation::None);
    assert_eq!(tls.suites.len(), 9);
    let quiet = "Listen 80\nSSLProxyEngine on\nSSLProxyVerify none\nProxyPass / https://h/\n";
    assert!(said(&read(quiet), Severity::Notice).is_empty());
    assert_eq!(
        settings(&super::spec(quiet), "https://h/").verify,
        PeerVerify::None
    );
}

#[test]
fn settings_are_those_of_the_server_with_the_section_s_over_them() {
    let spec = spec(
        "Listen 80\nSSLProxyEngine on\nSSLProxyVerifyDepth 1\nSSLProxyProtocol TLSv1.2\n\
         <VirtualHost *:80>\nServerName a\n<Proxy balancer://App>\nBalancerMember https://a:8443\nBalancerMember http://b\n\
         SSLProxyVerifyDepth 2\nSSLProxyCheckPeerCN off\n</Proxy>\n\
         ProxyPass /app/ balancer://app/\nProxyPass /w https://w/x\n\
         <Proxy https://W:443>\nSSLProxyVerify optional_no_ca\n</Proxy>\n</VirtualHost>\n\
         <VirtualHost *:80>\nSSLProxyProtocol TLSv1.3\nSSLProxyVerifyDepth 7\nProxyPass /v https://v/\n\
         SSLProxyCACertificateFile ca.pem\n</VirtualHost>\n",
    );
    let of = |name: &str| {
        let tls = settings(&spec, name);
        (tls.depth, tls.v12, tls.v13, tls.verify, tls.check_name)
    };
    assert_eq!(
        of("app"),
        (Some(2), true, false, PeerVerify::Require, false)
    );
    assert_eq!(
        of("https://w/x"),
        (Some(1), true, false, PeerVerify::OptionalNoCa, true)
    );
    assert_eq!(
        of("https://v/"),
        (Some(7), false, true, PeerVerify::Require, true)
    );
    let file = settings(&spec, "https://v/")
        .ca_file
        .as_ref()
        .expect("a file");
    assert!(file.path.ends_with("ca.pem") && file.path.is_absolute());
    assert_eq!(balancer(&spec, "app").members[1].tls, None);
    assert_eq!(spec.member_tls.len(), 3);
}

#[test]
fn equal_settings_in_several_servers_are_one() {
    let host = |name: &str| {
        format!(
            "<VirtualHost *:80>\nServerName {name}\nSSLProxyEngine on\nSSLProxyCACertificateFile ca\n\
             ProxyPass / balancer://app/\n</VirtualHost>\n"
        )
    };
    let app = "Listen 80\n<Proxy balancer://app>\nBalancerMember https://a\n</Proxy>\n";
    let same = spec(&format!("{app}{}{}", host("a.test"), host("b.test")));
    assert_eq!(same.member_tls.len(), 1);
    let other = host("b.test").replace("File ca", "File other");
    let said = errors(&format!("{app}{}{other}", host("a.test")));
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].1.contains("other SSLProxy settings"), "{said:?}");
}

#[test]
fn what_cannot_work_is_refused() {
    for (lines, line, wanted) in [
        (
            "SSLProxyEngine on\n</VirtualHost>\n<VirtualHost *:80>\nProxyPass / https://h/",
            6,
            "needs SSLProxyEngine on",
        ),
        (
            "SSLProxyEngine on\nSSLProxyProtocol all -TLSv1.2 -TLSv1.3\nProxyPass / https://h/",
            4,
            "AH02231",
        ),
        (
            "SSLProxyEngine on\nSSLProxyProtocol SSLv3\nProxyPass / https://h/",
            4,
            "SSLProxyProtocol SSLv3 is not supported",
        ),
        (
            "SSLProxyEngine on\nSSLProxyCipherSuite RC4\nProxyPass / https://h/",
            4,
            "SSLProxyCipherSuite: sluice has none",
        ),
        (
            "SSLProxyEngine maybe",
            3,
            "SSLProxyEngine must be On or Off",
        ),
        (
            "SSLProxyVerify perhaps",
            3,
            "SSLProxyVerify: Invalid argument",
        ),
        (
            "SSLProxyVerifyDepth -1",
            3,
            "SSLProxyVerifyDepth: Invalid argument",
        ),
        (
            "SSLProxyCARevocationCheck tree",
            3,
            "SSLProxyCARevocationCheck: Invalid argument",
        ),
        (
            "SSLProxyCARevocationCheck leaf strictly",
            3,
            "Invalid argument 'strictly'",
        ),
        (
            "SSLProxyEngine on\nSSLProxyCARevocationCheck leaf\nProxyPass / https://h/",
            4,
            "neither SSLProxyCARevocationFile",
        ),
        (
            "SSLProxyEngine on\nSSLProxyCheckPeerName off\nSSLProxyCheckPeerCN on\nProxyPass / https://h/",
            5,
            "SSLProxyCheckPeerCN On with",
        ),
        (
            "<Proxy *>\nSSLProxyEngine on\n</Proxy>",
            4,
            "SSLProxyEngine in <Proxy> with wildcards is not supported",
        ),
        (
            "<Location />\nSSLProxyEngine on\n</Location>",
            4,
            "not allowed in <Location>",
        ),
        (
            "SSLEngine on\nSSLCertificateFile a\nSSLVerifyClient require",
            5,
            "AH01896",
        ),
        (
            "SSLEngine on\nSSLCertificateFile a\nSSLVerifyClient optional\nSSLCACertificateFile c\nSSLCARevocationCheck leaf",
            7,
            "AH01899",
        ),
        (
            "<Location />\nSSLVerifyClient require\n</Location>",
            4,
            "SSLVerifyClient in <Location> is not supported",
        ),
        (
            "SSLOptions +FakeBasicAuth",
            3,
            "SSLOptions FakeBasicAuth is not supported",
        ),
        ("SSLOptions +Nonsense", 3, "Illegal option 'Nonsense'"),
    ] {
        let text = format!("Listen 80\n<VirtualHost *:80>\n{lines}\n</VirtualHost>\n");
        let said = errors(&text);
        assert_eq!(said.len(), 1, "{text}{said:?}");
        assert!(said[0].1.contains(wanted), "{wanted}: {said:?}");
        assert_eq!(said[0].0, line, "{text}{said:?}");
    }
}

#[test]
fn clients_are_asked_as_the_server_or_its_host_says() {
    let spec = spec(
        "Listen 443 https\nSSLCertificateFile a\nSSLCACertificateFile main\nSSLVerifyDepth 3\n\
         SSLOptions +StdEnvVars -ExportCertData\n\
         <VirtualHost *:443>\nSSLEngine on\nSSLVerifyClient require\n</VirtualHost>\n\
         <VirtualHost *:443>\nSSLEngine on\nServerName b\nSSLVerifyClient optional\nSSLCACertificateFile own\nSSLVerifyDepth 1\n</VirtualHost>\n\
         <VirtualHost *:443>\nSSLEngine on\nServerName c\n</VirtualHost>\n",
    );
    let clients = |index: usize| {
        let tls = spec.hosts[index].tls.as_ref().expect("TLS");
        tls.clients.as_ref().map(|clients| {
            let file = clients.ca_file.as_ref().expect("a file").path.file_name();
            let file = file.expect("a name").to_str().expect("UTF-8").to_owned();
            (clients.verify, clients.depth, file)
        })
    };
    assert_eq!(
        clients(1),
        Some((PeerVerify::Require, 3, "main".to_owned()))
    );
    assert_eq!(
        clients(2),
        Some((PeerVerify::Optional, 1, "own".to_owned()))
    );
    assert_eq!(clients(3), None);
}

#[test]
fn stapling_is_taken_with_a_warning_that_it_is_not_done() {
    let text = "Listen 443\nSSLStaplingCache shmcb:/x(1)\nSSLUseStapling On\nSSLStaplingResponderTimeout 5\n";
    let loaded = read(text);
    assert!(loaded.spec.is_some());
    let warnings = said(&loaded, Severity::Warning);
    let found = warnings.iter().find(|(line, _)| *line == 3);
    assert!(
        found.is_some_and(|(_, text)| text.contains("is not done")),
        "{warnings:?}"
    );
}
