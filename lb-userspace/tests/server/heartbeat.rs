//! Heartbeats from the network, from members to the requests that follow them.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
};

use super::harness::{Sluice, fetch, wait_until};

/// A member at an address of its own, which answers with its name.
fn member(ip: &str, name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).expect("bind");
    let address = listener.local_addr().expect("address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Ends with the connection; its errors are the test's to notice at the client.
            thread::spawn(move || drop(answer(&stream, name)));
        }
    });
    address
}

fn answer(stream: &TcpStream, name: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        if line == "\r\n" {
            write!(writer, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{name}")?;
        }
        line.clear();
    }
    Ok(())
}

/// A port that no datagrams come to.
fn free_udp_port() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    socket.local_addr().expect("address").port()
}

fn answering(sluice: &Sluice) -> BTreeSet<String> {
    let one = |_| {
        let answer = fetch(sluice.port, "/").expect("an answer");
        match answer.status {
            200 => answer.body,
            status => status.to_string(),
        }
    };
    (0..12).map(one).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn datagrams_of_members_say_where_requests_go() {
    let (b, c) = (member("127.0.0.2", "b"), member("127.0.0.3", "c"));
    let mut sluice = Sluice::prepare(&[]);
    let port = free_udp_port();
    let text = |port: u16| {
        format!(
            "Listen 127.0.0.1:{}\nHeartbeatListen 127.0.0.1:{port}\n<Proxy balancer://app>\n\
             BalancerMember http://{b}\nBalancerMember http://{c}\nProxySet lbmethod=heartbeat\n\
             </Proxy>\nProxyPass / balancer://app/\n<IfModule sluice_module>\nSluiceShards 2\n</IfModule>\n",
            sluice.port
        )
    };
    let (first, other) = (text(port), text(free_udp_port()));
    sluice.write(&first);
    sluice.run();
    // Whoever is heard of takes part; until then a proxy that has just begun elects in turn.
    let [of_b, of_c, stranger] = ["127.0.0.2:0", "127.0.0.3:0", "127.0.0.9:0"]
        .map(|from| UdpSocket::bind(from).expect("bind"));
    let say = |from: &UdpSocket, text: &str| {
        from.send_to(text.as_bytes(), ("127.0.0.1", port))
            .expect("sent");
    };
    wait_until("only c is heard of", || {
        say(&stranger, "v=1&ready=9&busy=1");
        say(&of_b, "rubbish");
        say(&of_c, "v=1&ready=9&busy=1");
        answering(&sluice) == set(&["c"])
    });
    wait_until("both are", || {
        say(&of_b, "v=1&ready=9&busy=1");
        say(&of_c, "v=1&ready=9&busy=1");
        answering(&sluice) == set(&["b", "c"])
    });
    let shown = sluice.status();
    assert_eq!(shown["methods"][0]["lbmethod"], "heartbeat");
    assert!(sluice.ok(&["status"]).contains("balancers   app heartbeat"));
    // A reload forgets nobody, and closes the port that is wanted no longer.
    sluice.write(&other);
    sluice.ok(&["reload"]);
    wait_until("the port is free", || {
        UdpSocket::bind(("127.0.0.1", port)).is_ok()
    });
    assert!(answering(&sluice).is_subset(&set(&["b", "c"])));
    wait_until("said", || sluice.log().contains("malformed message"));
}
