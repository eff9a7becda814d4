//! `Protocols` and the H2 directives.

use super::*;
use crate::config::spec::{Protocol, Protocols};

#[test]
fn protocols_are_inherited_as_a_whole_and_limits_one_by_one() {
    let spec = spec(&format!(
        "{L}Protocols h2 h2c http/1.1\nH2MaxSessionStreams 50\nH2StreamTimeout 3\n\
         <VirtualHost *:80>\nProtocols http/1.1\nH2WindowSize 2048\n</VirtualHost>\n\
         <VirtualHost *:80>\nProtocolsHonorOrder Off\nH2Direct Off\nH2StreamTimeout 300ms\n\
         H2MaxDataFrameLen 4096\n</VirtualHost>\n"
    ));
    let [main, one, two] = [0, 1, 2].map(|host| spec.hosts[host].protocols.clone());
    let all = [Protocol::H2, Protocol::H2c, Protocol::Http11];
    assert_eq!(main.offered, all);
    assert!(main.honor_order && main.has_h2c());
    assert_eq!(one.offered, [Protocol::Http11]);
    assert!(!one.has_h2c());
    assert_eq!((one.max_streams, one.window), (50, 2048));
    assert_eq!(one.stream_timeout, Some(Duration::from_secs(3)));
    assert_eq!(two.offered, all);
    assert!(!two.honor_order && !two.has_h2c());
    assert_eq!(two.stream_timeout, Some(Duration::from_millis(300)));
    assert_eq!(
        (two.max_streams, two.window, two.data_frame),
        (50, 65_535, 4096)
    );
}

#[test]
fn without_a_word_about_it_there_is_no_http_2() {
    let protocols = &spec(L).hosts[0].protocols;
    assert_eq!(*protocols, Protocols::default());
    assert_eq!(protocols.offered, [Protocol::Http11]);
}

#[test]
fn what_is_not_applied_is_said_so() {
    let loaded = read(format!(
        "{L}H2Push On\nH2Push Off\nH2Upgrade On\nH2ModernTLSOnly On\nH2ModernTLSOnly Off\n\
         H2MinWorkers 4\nH2Padding 0\nProtocols spdy h2\n"
    ));
    let lines = |severity| {
        let said = said(&loaded, severity).into_iter();
        said.map(|(line, _)| line).collect::<Vec<_>>()
    };
    assert_eq!(lines(Severity::Notice), [2, 4, 6, 7]);
    assert_eq!(lines(Severity::Warning), [9]);
}
