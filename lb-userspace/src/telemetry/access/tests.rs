//! Lines against what httpd writes.

use super::*;

fn line(format: &str, change: impl FnOnce(&mut Entry<'_>)) -> String {
    let format = Format::compile(format);
    let mut fields = HeaderMap::new();
    fields.insert("user-agent", HeaderValue::from_static("a\"b\\c"));
    fields.append("cookie", HeaderValue::from_static("a=1; b=2"));
    fields.append("cookie", HeaderValue::from_static("c=3"));
    let take = |names: &[HeaderName]| -> Vec<_> {
        let names = names.iter();
        names.map(|name| take_value(name, &fields)).collect()
    };
    let request_fields = take(format.request_fields());
    let response_fields = take(format.response_fields());
    let environment = [("BALANCER_WORKER_ROUTE".into(), "n1".to_owned())];
    let mut entry = Entry {
        remote: "[::ffff:192.0.2.1]:4711".parse().expect("address"),
        local: "192.0.2.2:80".parse().expect("address"),
        begun: SystemTime::UNIX_EPOCH + Duration::from_micros(1_000_000_007),
        took: Duration::from_micros(1_234_567),
        request_line: "GET /a%20b?q=1 HTTP/1.1",
        method: "GET",
        path: b"/a b",
        query: Some("q=1"),
        protocol: "HTTP/1.1",
        status: 200,
        body_bytes: 0,
        bytes_in: 10,
        bytes_out: 20,
        filename: "proxy:http://m/a",
        server_name: "www.test",
        host_name: "h.test",
        port: 80,
        keepalives: 3,
        connection: Connection::Kept,
        request_fields: &request_fields,
        response_fields: &response_fields,
        log_id: 0,
        connection_log_id: 0xc,
        handler: "proxy-server",
        environment: &environment,
        notes: &[("Kept".to_owned(), "no\"te".to_owned())],
    };
    change(&mut entry);
    let mut out = Vec::new();
    format.write(&entry, &mut Clock::default(), &mut out);
    String::from_utf8(out).expect("ASCII")
}

#[test]
fn tags_are_written_as_httpd_writes_them() {
    for (format, expected) in [
        ("%h %l %u %a %A", "192.0.2.1 - - 192.0.2.1 192.0.2.2"),
        ("\"%r\" %>s %b %B", "\"GET /a%20b?q=1 HTTP/1.1\" 200 - 0"),
        ("%m %U%q %H", "GET /a b?q=1 HTTP/1.1"),
        ("%I %O %S %L", "10 20 30 -"),
        ("%I %O %D %T %{ms}T %{us}T", "10 20 1234567 1 1234 1234567"),
        (
            "%v %V %p %{local}p %{remote}p",
            "www.test h.test 80 80 4711",
        ),
        ("%k %X %f", "3 + proxy:http://m/a"),
        ("%{User-Agent}i %{Nope}i %{Nope}o", "a\\\"b\\\\c - -"),
        ("%{b}C %{c}C %{d}C", "2 3 -"),
        ("%{BALANCER_WORKER_ROUTE}e %{BALANCER_NAME}e", "n1 -"),
        ("%{sec}t %{usec_frac}t", "1000 000007"),
        ("%400,501{User-Agent}i %!200m %200m", "- - GET"),
        ("100%% %{x}n %{x}^ti|%{x}^to", "100% - -|-"),
        ("%{kept}n", "no\\\"te"),
        (
            "%R %L %{c}L %{c}a",
            "proxy-server - 000000000000000c 192.0.2.1",
        ),
        ("%{B}C %{US}T %{s}T", "2 1234567 1"),
        (
            "%{begin:sec}t %{end:sec}t %{msec}t %{usec}t",
            "1000 1001 1000000 1000000007",
        ),
        (
            "%{begin:%Y}t %{end:usec_frac}t %{msec_frac}t",
            "1970 234574 000",
        ),
        ("%500,503s %!500s %503,200s", "- 200 200"),
        ("%Q", "%Q"),
        ("a\\tb", "a\tb"),
    ] {
        assert_eq!(line(format, |_| {}), format!("{expected}\n"), "{format}");
    }
}

#[test]
fn what_a_client_sends_cannot_forge_a_line() {
    let forged = line("%r", |entry| entry.request_line = "a\nb\r\t\u{7f}\u{e9}\"");
    assert_eq!(forged, "a\\nb\\r\\t\\x7f\\xc3\\xa9\\\"\n");
    assert_eq!(line("%r", |entry| entry.request_line = ""), "-\n");
}

#[test]
fn dropping_a_buffer_writes_what_it_holds() {
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    let format = Format::compile("%m");
    let sink = Sink::of(Arc::new(file.reopen().expect("reopen")));
    let mut buffer = Buffer::new(sink);
    buffer.lines.extend_from_slice(b"one\n");
    buffer.flush();
    writer::settle(Duration::from_secs(10));
    buffer.lines.extend_from_slice(b"two\n");
    assert_eq!(std::fs::read(file.path()).expect("read"), b"one\n");
    drop(buffer);
    writer::settle(Duration::from_secs(10));
    assert_eq!(std::fs::read(file.path()).expect("read"), b"one\ntwo\n");
    assert!(format.request_fields().is_empty());
}
