//! Directives for other hosts than members, and for connections to members.

use super::*;

#[test]
fn what_is_for_other_hosts_is_accepted_and_for_members_refused() {
    let members = "ProxyPass /a http://app.internal:81/x\n";
    let read = |line: &str| read(format!("{L}{members}{line}"));
    for line in [
        "NoProxy .internal 10.0.0.0/8",
        "ProxyDomain .internal",
        "ProxyRemote ftp http://proxy:8080",
        "ProxyRemote https http://proxy:8080",
        "ProxyRemote http://other http://proxy:8080",
        "ProxyRemoteMatch ^http://other http://proxy:8080",
        "ProxyBlock other.test",
        "ProxyFCGIBackendType FPM",
        "ProxyFCGISetEnvIf true A b",
        "ProxySCGISendfile On",
        "ProxySCGIInternalRedirect On",
        "ReceiveBufferSize 600",
        "SendBufferSize 600",
    ] {
        let loaded = read(line);
        let notices = said(&loaded, Severity::Notice);
        assert!(loaded.spec.is_some(), "{}", rendered(&loaded));
        assert!(
            notices.iter().any(|(at, _)| *at == 3),
            "{line}: {notices:?}"
        );
    }
    for (line, name) in [
        ("ProxyRemote * http://proxy:8080", "ProxyRemote"),
        ("ProxyRemote http http://proxy:8080", "ProxyRemote"),
        ("ProxyRemote HTTP://app http://proxy:8080", "ProxyRemote"),
        (
            "ProxyRemoteMatch internal http://proxy:8080",
            "ProxyRemoteMatch",
        ),
        ("ProxyBlock Internal", "ProxyBlock"),
        ("ProxyBlock other *", "ProxyBlock"),
    ] {
        let message = format!(
            "{name} is for http://app.internal:81/x too, which is not supported by this version of sluice"
        );
        assert_eq!(
            said(&read(line), Severity::Error),
            [(3, &message[..])],
            "{line}"
        );
    }
    for (line, message) in [
        (
            "ProxyDomain x",
            "ProxyDomain: domain name must start with a dot.",
        ),
        (
            "ProxyRemote ftp x",
            "ProxyRemote: Bad syntax for a remote proxy server",
        ),
        (
            "SendBufferSize 100",
            "SendBufferSize must be >= 512 bytes, or 0 for system default.",
        ),
        (
            "ReceiveBufferSize -1",
            "ReceiveBufferSize must be >= 512 bytes, or 0 for system default.",
        ),
        (
            "ProxyReceiveBufferSize 100",
            "ProxyReceiveBufferSize must be >= 512 bytes, or 0 for system default.",
        ),
        (
            "ProxySourceAddress app.internal",
            "ProxySourceAddress invalid value",
        ),
        (
            "HostnameLookups maybe",
            "parameter must be 'on', 'off', or 'double'",
        ),
        ("StrictHostCheck maybe", "StrictHostCheck must be On or Off"),
    ] {
        assert_eq!(said(&read(line), Severity::Error), [(3, message)], "{line}");
    }
    let looked_up = read("HostnameLookups Double");
    let message = "names of clients are not looked up for logs: %h is the address";
    assert_eq!(said(&looked_up, Severity::Warning), [(3, message)]);
}

#[test]
fn servers_say_where_connections_come_from_and_what_the_kernel_keeps_of_them() {
    let text = format!(
        "{L}ProxyReceiveBufferSize 1000\nProxySourceAddress 192.0.2.1\n\
         <Proxy balancer://b>\nBalancerMember http://a\nBalancerMember http://b receivebuffersize=2000\n</Proxy>\n\
         ProxyPass /b balancer://b\n\
         <VirtualHost *:80>\nServerName one\nProxySourceAddress [2001:db8::1]\nProxyReceiveBufferSize 0\n\
         ProxyPass /c http://c\n"
    );
    let spec = spec(
        &format!("{text}ProxyPass /b !\n</VirtualHost>").replace("ProxyPass /b balancer://b\n", ""),
    );
    let of = |name: &str| {
        let members = balancer(&spec, name).members.iter();
        let said = members.map(|member| {
            (
                member.source.map(|ip| ip.to_string()),
                member.receive_buffer,
            )
        });
        said.collect::<Vec<_>>()
    };
    let main = || Some("192.0.2.1".to_owned());
    assert_eq!(of("b"), [(main(), Some(1000)), (main(), Some(2000))]);
    assert_eq!(of("http://c"), [(Some("2001:db8::1".to_owned()), None)]);
    // One that the virtual host uses as well cannot have both.
    let loaded = read(format!("{text}</VirtualHost>"));
    let errors = said(&loaded, Severity::Error);
    assert!(
        matches!(&errors[..], [(_, message)] if message.starts_with("b with another ProxySourceAddress")),
        "{errors:?}"
    );
}

#[test]
fn wildcards_around_a_proxypass_match_twice_as_in_httpd() {
    // As observed of httpd 2.4.71: which paths reach the member.
    for (section, taken, left) in [
        ("/w*/x", &["/w/x"][..], &["/wild/x", "/w/x/y", "/w/y/x"][..]),
        ("/v*", &["/v", "/vx", "/vred"], &["/v/x", "/a/v"]),
        ("/q?q", &["/qxq", "/qaq"], &["/q", "/qq", "/q/q"]),
        ("/[ab]/[!c-d]", &["/b/!"], &["/a/x", "/c/!", "/a/c", "/a//"]),
    ] {
        let text = format!(
            "{L}<Location \"{section}\">\nProxyPass http://a/t\nProxyPassReverse http://a/t\n</Location>"
        );
        let loaded = read(text);
        let warnings = said(&loaded, Severity::Warning);
        assert_eq!(warnings.len(), 2, "{}", rendered(&loaded));
        let spec = loaded.spec.expect("accepted");
        let route = &spec.hosts[0].routes[0];
        assert_eq!(route.path, section);
        let pattern = route.pattern.as_ref().expect("a pattern");
        for path in taken {
            assert!(pattern.is_match(path.as_bytes()), "{section} {path}");
        }
        for path in left {
            assert!(!pattern.is_match(path.as_bytes()), "{section} {path}");
        }
        assert!(spec.hosts[0].reverses.is_empty());
    }
    let spec = spec(&format!(
        "{L}<Location \"/(v*)\">\nProxyPass http://a/$1\n</Location>"
    ));
    let pattern = spec.hosts[0].routes[0].pattern.as_ref().expect("a pattern");
    assert_eq!(pattern.groups(), 1, "the section's own");
    let broken = read(format!(
        "{L}<Location \"/v?*[\">\nProxyPass http://a/\n</Location>"
    ));
    assert_eq!(
        said(&broken, Severity::Error),
        [(3, "Regular expression could not be compiled.")]
    );
}
