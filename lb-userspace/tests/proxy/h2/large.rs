//! Large bodies and hoarding clients in bounded memory. Each test runs in a process of its own, so
//! that what is measured is the proxy and a test that holds nothing itself.

use std::process::Command;

use super::*;
use crate::support::respond;

/// Whether this is the process for the test; else it is started and waited for.
fn alone(test: &str) -> bool {
    const ALONE: &str = "SLUICE_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let output = Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", &format!("h2::large::{test}"), "--nocapture"])
        .env(ALONE, "1")
        .output()
        .expect("test program runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
    false
}

/// Memory that is this process's own, KiB (its share of what is shared counts in part).
fn pss() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").expect("own memory");
    let line = text
        .lines()
        .find(|line| line.starts_with("Pss:"))
        .expect("Pss");
    line.split_whitespace()
        .nth(1)
        .expect("number")
        .parse()
        .expect("number")
}

/// Watches the memory until dropped; the most that it was.
struct Peak {
    stop: std::sync::mpsc::Sender<()>,
    thread: Option<std::thread::JoinHandle<u64>>,
}

impl Peak {
    fn watch() -> Self {
        let (stop, stopped) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut peak = pss();
            while stopped
                .recv_timeout(Duration::from_millis(50))
                .is_err_and(|e| e == std::sync::mpsc::RecvTimeoutError::Timeout)
            {
                peak = peak.max(pss());
            }
            peak
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    fn end(mut self) -> u64 {
        let _ = self.stop.send(());
        self.thread.take().expect("once").join().expect("watch")
    }
}

const TOTAL: usize = 256 << 20;
const PIECE: usize = 64 << 10;

/// Reads a body of [`TOTAL`] bytes and sends one at the same time.
fn both_ways() -> Member {
    Member::with_open_body(|seen, stream| {
        let mut reader = stream.try_clone()?;
        let here = seen.body.len();
        let sender = std::thread::spawn({
            let mut stream = stream.try_clone()?;
            move || -> io::Result<()> {
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {TOTAL}\r\n\r\n")?;
                let piece = vec![b'd'; PIECE];
                // An answer that ends before the upload would end that.
                for _ in 1..TOTAL / PIECE {
                    stream.write_all(&piece)?;
                }
                Ok(())
            }
        });
        let mut left = TOTAL - here;
        let mut buffer = vec![0; PIECE];
        while left > 0 {
            let count = reader.read(&mut buffer)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= count;
        }
        sender.join().expect("sender")?;
        stream.write_all(&vec![b'd'; PIECE])?;
        Ok(false)
    })
}

#[test]
fn large_bodies_both_ways_at_once_take_bounded_memory_over_http_1() {
    if !alone("large_bodies_both_ways_at_once_take_bounded_memory_over_http_1") {
        return;
    }
    let a = both_ways();
    let lab = Lab::balancing(&[a.address]);
    let mut client = lab.client();
    // The end of the answer waits for that of the upload, on a machine that may be busy.
    client
        .stream
        .set_read_timeout(Some(PATIENCE * 6))
        .expect("timeout");
    let before = pss();
    let peak = Peak::watch();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {TOTAL}\r\n\r\n"
    ));
    let mut upload = client.stream.try_clone().expect("clone");
    let sender = std::thread::spawn(move || {
        let piece = vec![b'u'; PIECE];
        for _ in 0..TOTAL / PIECE {
            upload.write_all(&piece).expect("upload");
        }
    });
    let (mut got, mut head) = (0, Vec::new());
    let mut buffer = vec![0; PIECE];
    loop {
        let count = client.stream.read(&mut buffer).expect("download");
        if count == 0 {
            break;
        }
        if head.len() < 4096 {
            head.extend_from_slice(&buffer[..count]);
        }
        got += count;
    }
    sender.join().expect("sender");
    let end = find(&head, b"\r\n\r\n").expect("head") + 4;
    assert_eq!(got - end, TOTAL);
    let grown = peak.end().saturating_sub(before);
    println!("grown by {grown} KiB");
    assert!(grown < 16 << 10, "grown by {grown} KiB");
}

#[test]
fn large_bodies_both_ways_at_once_take_bounded_memory_over_http_2() {
    if !alone("large_bodies_both_ways_at_once_take_bounded_memory_over_http_2") {
        return;
    }
    let a = both_ways();
    let lab = lab(&[a.address], |_| {});
    let before = pss();
    let peak = Peak::watch();
    let got = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime")
        .block_on(async {
            let mut client = H2::with(
                lab.address,
                ::h2::client::Builder::new()
                    .initial_window_size(1 << 20)
                    .initial_connection_window_size(1 << 20)
                    .max_send_buffer_size(PIECE),
            )
            .await;
            let mut request = Request::post("http://h.test/").body(()).expect("request");
            request.headers_mut().insert("content-length", TOTAL.into());
            let (response, mut upload) = client.open(request, false).await;
            let uploaded = tokio::spawn(async move {
                let piece = Bytes::from(vec![b'u'; PIECE]);
                let mut left = TOTAL;
                while left > 0 {
                    upload.reserve_capacity(left.min(PIECE));
                    let capacity = std::future::poll_fn(|cx| upload.poll_capacity(cx)).await;
                    let size = capacity.expect("open").expect("open").min(left).min(PIECE);
                    left -= size;
                    upload
                        .send_data(piece.slice(..size), left == 0)
                        .expect("send");
                }
            });
            let mut body = response.await.expect("head").into_body();
            let mut got = 0;
            while let Some(data) = body.data().await {
                let data = data.expect("data");
                got += data.len();
                body.flow_control()
                    .release_capacity(data.len())
                    .expect("release");
            }
            uploaded.await.expect("upload");
            got
        });
    assert_eq!(got, TOTAL);
    let grown = peak.end().saturating_sub(before);
    println!("grown by {grown} KiB");
    assert!(grown < 16 << 10, "grown by {grown} KiB");
}

/// A hundred responses of 64 MiB for each of ten clients that open no window.
#[test]
fn hoarding_clients_make_the_proxy_hold_little() {
    if !alone("hoarding_clients_make_the_proxy_hold_little") {
        return;
    }
    let a = Member::with(|seen, stream| {
        if seen.path() == "/" {
            return respond(stream, "200 OK", "", b"a");
        }
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            64 << 20
        )?;
        let piece = vec![b'd'; 16 << 10];
        loop {
            stream.write_all(&piece)?;
        }
    });
    let lab = lab(&[a.address], |_| {});
    let before = pss();
    let fields = [&GET[..3], &[(":path", "/large")]].concat();
    let hoard = |window: u32| -> Vec<Raw> {
        (0..10)
            .map(|_| {
                let mut raw = Raw::with(lab.address, &[(4, window)]);
                for number in 0..100 {
                    raw.frame(
                        HEADERS,
                        END_HEADERS | END_STREAM,
                        number * 2 + 1,
                        &block(&fields),
                    )
                    .expect("send");
                }
                for _ in 0..100 {
                    raw.until(HEADERS);
                }
                raw
            })
            .collect()
    };
    for window in [0, 1 << 30] {
        let hoarders = hoard(window);
        run(async { assert_eq!(H2::connect(lab.address).await.get("/").await.body, b"a") });
        // Until nothing grows any more.
        let (mut last, mut same) = (0, 0);
        while same < 10 {
            std::thread::sleep(Duration::from_millis(50));
            let now = pss();
            same = if now.abs_diff(last) < 256 {
                same + 1
            } else {
                0
            };
            last = now;
        }
        // Threads of a thousand member's connections are in it too.
        let grown = last.saturating_sub(before);
        println!("window {window}: grown by {grown} KiB for 1000 streams");
        assert!(grown < 300 << 10, "grown by {grown} KiB");
        drop(hoarders);
        crate::support::eventually("all is let go", || lab.busy(0, 0) == 0);
    }
}

/// Twenty clients at a time that flood in six ways, while another is served.
#[test]
fn floods_make_the_proxy_hold_little() {
    if !alone("floods_make_the_proxy_hold_little") {
        return;
    }
    let a = Member::named("a");
    // The client among the floods waits for its turn on a busy machine.
    let lab = lab(&[a.address], |spec| {
        spec.hosts[0].keep_alive_timeout = Duration::from_secs(20);
    });
    let address = lab.address;
    // Warm, so that what is measured is the flood.
    run(async { assert_eq!(H2::connect(address).await.get("/").await.body, b"a") });
    let before = pss();
    let peak = Peak::watch();
    let floods: Vec<_> = (0..20)
        .map(|number| {
            std::thread::spawn(move || {
                let large = block(&[("x", &"y".repeat(16_000))]);
                for round in 0..6 {
                    // Among a thousand connections that come and go one may be refused or reset.
                    let Ok(mut raw) = Raw::try_with(address, &[]) else {
                        continue;
                    };
                    let mut sent = 0_u32;
                    let ended = loop {
                        let stream = sent * 2 + 1;
                        let frames = match (number + round) % 6 {
                            0 => vec![Frame::new(PING, 0, 0, &[7; 8])],
                            1 => vec![Frame::new(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, sent as u8])],
                            2 => vec![
                                Frame::new(HEADERS, END_HEADERS | END_STREAM, stream, &block(GET)),
                                Frame::new(RST_STREAM, 0, stream, &[0, 0, 0, 8]),
                            ],
                            3 if sent == 0 => vec![Frame::new(HEADERS, END_STREAM, 1, &block(GET))],
                            3 => vec![Frame::new(CONTINUATION, 0, 1, &large)],
                            4 => vec![Frame::new(HEADERS, END_HEADERS, stream, &large)],
                            _ => vec![Frame::new(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])],
                        };
                        let bytes: Vec<u8> = frames.iter().flat_map(Frame::bytes).collect();
                        if raw.send(&bytes).is_err() {
                            break true;
                        }
                        sent += 1;
                        if sent > 50_000 {
                            // Small frames fit the sockets' buffers: the proxy may not have had
                            // its turn yet. That the connection is idle is no reason to end it.
                            let mut ended = true;
                            while let Some(frame) = raw.receive() {
                                if frame.kind == GOAWAY {
                                    ended = frame.code() != 0;
                                }
                            }
                            break ended;
                        }
                    };
                    assert!(ended, "flood {} was taken", (number + round) % 6);
                }
            })
        })
        .collect();
    run(async {
        let mut client = H2::connect(address).await;
        for _ in 0..50 {
            assert_eq!(client.get("/").await.body, b"a");
        }
    });
    for flood in floods {
        flood.join().expect("flood");
    }
    let grown = peak.end().saturating_sub(before);
    println!("grown by {grown} KiB");
    assert!(grown < 64 << 10, "grown by {grown} KiB");
    crate::support::eventually("all is let go", || lab.busy(0, 0) == 0);
}
