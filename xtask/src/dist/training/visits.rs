//! What the training's clients ask for: one run of curl each, over as many kept connections as that
//! takes. `{web}`, `{tls}` and `{dir}` stand for the cleartext port's and the TLS port's origin and the folder with
//! files to send. What the member does, the query says (`lab::member`).

/// Fields as a browser sends them.
macro_rules! browser {
    ($($more:literal),* $(,)?) => {
        &[
            "-H", "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
            "-H", "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "-H", "Accept-Language: de,en-US;q=0.7,en;q=0.3",
            "-H", "Accept-Encoding: gzip, deflate, br, zstd",
            "-H", "Referer: https://www.shop.test/shop/start",
            "-H", "Upgrade-Insecure-Requests: 1",
            "-H", "Sec-Fetch-Dest: document",
            "-H", "Sec-Fetch-Mode: navigate",
            "-H", "Sec-Fetch-Site: same-origin",
            "-H", "Priority: u=0, i",
            $($more),*
        ]
    };
}

/// curl's arguments, visit by visit.
pub(super) const VISITS: &[&[&str]] = &[
    // A session: the member's cookie comes back with each request, and its route is followed.
    browser!(
        "-H",
        "Host: www.shop.test",
        "-b",
        "",
        "{web}/shop/item/[1-120]?cookie=SESSION&size=2900"
    ),
    browser!(
        "-H",
        "Host: www.shop.test",
        "-b",
        "SESSION=x7k2m9.bob; consent=all; theme=dark; _a=1.2.3.4",
        "{web}/shop/[a-z]/cat?size=[700-9500:2200]"
    ),
    browser!(
        "-H",
        "Host: shop.test",
        "{web}/shop/basket;session=91x.cid?n=[1-80]&size=450"
    ),
    // Programs.
    &[
        "-H",
        "Host: api.test",
        "-H",
        "Authorization: Bearer eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiI3In0.c2ln",
        "-H",
        "Accept: application/json",
        "-H",
        "X-Request-Id: 5f0c",
        "{web}/api/v2/orders/[1-120]?chunked=1&size=1300",
    ],
    &[
        "-H",
        "Host: api.test",
        "-H",
        "Content-Type: application/json",
        "-d",
        "{\"sku\":\"a-17\",\"count\":2,\"note\":\"ring twice\"}",
        "{web}/api/v2/orders?n=[1-80]&status=201&size=90",
    ],
    &["-H", "Host: api.test", "-I", "{web}/api/v2/health?n=[1-60]"],
    &[
        "-H",
        "Host: api.test",
        "-X",
        "DELETE",
        "{web}/api/v2/orders/[1-30]?status=204",
    ],
    &[
        "-H",
        "Host: api.test",
        "-X",
        "OPTIONS",
        "-H",
        "Origin: https://shop.test",
        "{web}/api/v2/orders?n=[1-20]&interim=103",
    ],
    // Bodies up and down.
    browser!(
        "-H",
        "Host: shop.test",
        "--data-binary",
        "@{dir}/form",
        "{web}/shop/checkout?n=[1-60]&size=5200"
    ),
    &[
        "-H",
        "Host: shop.test",
        "-H",
        "Expect: 100-continue",
        "-T",
        "{dir}/photo",
        "{web}/media/photo-[1-25].jpg?status=201",
    ],
    &[
        "-H",
        "Host: shop.test",
        "-H",
        "Transfer-Encoding: chunked",
        "-T",
        "{dir}/film",
        "{web}/media/film-[1-3].mp4",
    ],
    &[
        "-H",
        "Host: shop.test",
        "{web}/media/big-[1-6].bin?size=[170000-370000:100000]",
    ],
    &[
        "-H",
        "Host: shop.test",
        "--limit-rate",
        "2M",
        "{web}/media/slow.bin?size=1500000&chunked=1",
    ],
    // Connections that do not last.
    browser!(
        "-H",
        "Host: shop.test",
        "-H",
        "Connection: close",
        "{web}/shop/ad/[1-50]?size=610"
    ),
    &[
        "-H",
        "Host: shop.test",
        "--http1.0",
        "{web}/shop/old/[1-30]?size=330",
    ],
    &[
        "-H",
        "Host: shop.test",
        "{web}/shop/once/[1-25]?close=1&size=720",
    ],
    // What goes wrong.
    &["-H", "Host: shop.test", "{web}/missing/[1-50]"],
    &["-H", "Host: shop.test", "{web}/private/[1-15]"],
    &[
        "-H",
        "Host: shop.test",
        "{web}/shop/[1-25]?status=404&size=1200",
    ],
    &[
        "-H",
        "Host: shop.test",
        "{web}/shop/moved/[1-25]?status=302&location=http://shop.test/shop/new",
    ],
    &[
        "-H",
        "Host: shop.test",
        "-H",
        "If-None-Match: \"c0ffee\"",
        "{web}/shop/logo/[1-40]?status=304",
    ],
    &["-H", "Host: shop.test", "{web}/worn/page/[1-30]?size=256"],
    &["-H", "Host: shop.test", "{web}/worn/[1-4]?garbage=1"],
    &["-H", "Host: shop.test", "{web}/worn/[1-3]?drop=1"],
    &[
        "-H",
        "Host: shop.test",
        "{web}/worn/[1-3]?size=9000&cut=4000",
    ],
    &["-H", "Host: shop.test", "{web}/gone/[1-12]"],
    // TLS, both versions and several suites, sessions kept and resumed.
    browser!(
        "--tls-max",
        "1.2",
        "-H",
        "Host: shop.test",
        "-b",
        "",
        "{tls}/shop/item/[1-60]?cookie=SESSION&size=3100"
    ),
    browser!(
        "--tls-max",
        "1.2",
        "--ciphers",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "-H",
        "Host: shop.test",
        "-H",
        "Connection: close",
        "{tls}/shop/till/[1-25]?size=480"
    ),
    browser!(
        "--http1.1",
        "--tls13-ciphers",
        "TLS_AES_128_GCM_SHA256",
        "-H",
        "Host: shop.test",
        "{tls}/shop/[a-z]/list?size=[900-8100:2400]"
    ),
    browser!(
        "--http1.1",
        "--tls13-ciphers",
        "TLS_CHACHA20_POLY1305_SHA256",
        "-H",
        "Host: shop.test",
        "-H",
        "Connection: close",
        "{tls}/shop/note/[1-30]?size=520"
    ),
    &[
        "--http1.1",
        "--curves",
        "P-256",
        "-H",
        "Host: shop.test",
        "-d",
        "a=1&b=2&c=three",
        "{tls}/api/v2/login?n=[1-40]&size=210",
    ],
    &[
        "--http1.1",
        "-H",
        "Host: shop.test",
        "{tls}/media/pic-[1-8].png?size=[30000-180000:50000]",
    ],
    &[
        "--http1.1",
        "-H",
        "Host: shop.test",
        "-T",
        "{dir}/photo",
        "{tls}/media/up-[1-10].jpg?status=201",
    ],
    // HTTP/2 where it is offered; else these are more of the same over HTTP/1.1.
    browser!(
        "--http2",
        "-H",
        "Host: shop.test",
        "-b",
        "SESSION=k3.ann; consent=all",
        "--parallel",
        "--parallel-max",
        "12",
        "{tls}/shop/tile/[1-90]?size=[400-4400:2000]"
    ),
    &[
        "--http2",
        "-H",
        "Host: shop.test",
        "--parallel",
        "--parallel-max",
        "5",
        "-H",
        "Accept: application/json",
        "-d",
        "{\"q\":\"shoes\"}",
        "{tls}/api/v2/search?n=[1-60]&chunked=1&size=3700",
    ],
    &[
        "--http2",
        "-H",
        "Host: shop.test",
        "--parallel",
        "--parallel-max",
        "4",
        "{tls}/media/clip-[1-12].bin?size=90000",
    ],
    &[
        "--http2",
        "-H",
        "Host: shop.test",
        "--parallel",
        "{tls}/missing/[1-20]",
    ],
];

/// What curl does not send.
pub(super) const RAW: &[&[u8]] = &[
    b"GET /shop/raw HTTP/1.1\r\n\r\n",
    b"GET /shop/a b HTTP/1.1\r\nHost: shop.test\r\n\r\n",
    b"BREW /shop/pot HTTP/1.1\r\nHost: shop.test\r\nContent-Length: -1\r\n\r\n",
    b"GET /shop/pipe1 HTTP/1.1\r\nHost: shop.test\r\n\r\nGET /shop/pipe2 HTTP/1.1\r\nHost: shop.test\r\n\r\nGET /shop/pipe3 HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n",
    b"POST /shop/both HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"\x16\x03\x01\x00\x05hello",
    b"GET /shop/ HTTP/3.7\r\nHost: shop.test\r\n\r\n",
];
