//! A member that answers a POST with its body and REDIRECT with a redirect to itself.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    thread,
};

pub(super) fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(&stream);
            let (mut length, mut first, mut line) = (0, String::new(), String::new());
            // Each connection carries one request; its errors are the client's to notice.
            let _ = reader.read_line(&mut first);
            while reader.read_line(&mut line).is_ok_and(|count| count > 2) {
                let lower = line.to_ascii_lowercase();
                if let Some(value) = lower.strip_prefix("content-length:") {
                    length = value.trim().parse().expect("a length");
                }
                line.clear();
            }
            let mut body = vec![0; length];
            let _ = reader.read_exact(&mut body);
            let head = if first.starts_with("REDIRECT ") {
                format!("HTTP/1.1 302 Found\r\nLocation: http://{address}/elsewhere\r\n")
            } else {
                "HTTP/1.1 200 OK\r\n".to_owned()
            };
            let head = format!("{head}Content-Length: {length}\r\nConnection: close\r\n\r\n");
            let _ = (&stream).write_all(head.as_bytes());
            let _ = (&stream).write_all(&body);
        }
    });
    address
}
