//! Answers that sluice gives itself: the status page in httpd's form, with its words kept short.

use bytes::Bytes;
use http::{Response, StatusCode, header, header::HeaderValue};
use hyper::ext::ReasonPhrase;

/// `Server` of our own answers, and of responses whose member sent none.
pub const SERVER: HeaderValue = HeaderValue::from_static("sluice");

/// What an error page tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail<'a> {
    /// Nothing but what the status means.
    Plain,
    /// What is wrong with the request.
    Reason(&'a str),
    /// A "Proxy Error": the status line says so and the page gives the reason.
    Proxy(&'a str),
}

/// Makes the page of an error. Its head is complete but for Date and Connection.
pub fn error(status: StatusCode, detail: Detail<'_>) -> Response<Bytes> {
    let (reason, cause) = match detail {
        Detail::Plain => (status.canonical_reason().unwrap_or("Error"), None),
        Detail::Reason(cause) => (status.canonical_reason().unwrap_or("Error"), Some(cause)),
        Detail::Proxy(cause) => ("Proxy Error", Some(cause)),
    };
    let code = status.as_u16();
    let cause = cause.map_or_else(String::new, |cause| {
        format!("<p>Reason: <strong>{}</strong></p>\n", escape(cause))
    });
    let text = meaning(status);
    let body = format!(
        "<!DOCTYPE html>\n<html><head>\n<title>{code} {reason}</title>\n</head><body>\n\
         <h1>{reason}</h1>\n<p>{text}</p>\n{cause}</body></html>\n"
    );
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=iso-8859-1"),
    );
    fields.insert(header::SERVER, SERVER);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        fields.insert(
            header::ALLOW,
            HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH"),
        );
    }
    if matches!(detail, Detail::Proxy(_)) {
        response
            .extensions_mut()
            .insert(ReasonPhrase::from_static(b"Proxy Error"));
    }
    response
}

/// Sends the client elsewhere.
pub fn elsewhere(status: StatusCode, place: HeaderValue) -> Response<Bytes> {
    let mut response = error(status, Detail::Plain);
    let reason = status.canonical_reason().unwrap_or("Elsewhere");
    let code = status.as_u16();
    let shown = escape(&String::from_utf8_lossy(place.as_bytes())).replace('"', "&quot;");
    let body = format!(
        "<!DOCTYPE html>\n<html><head>\n<title>{code} {reason}</title>\n</head><body>\n\
         <h1>{reason}</h1>\n<p>The document is at <a href=\"{shown}\">another address</a>.</p>\n</body></html>\n"
    );
    *response.body_mut() = Bytes::from(body);
    response.headers_mut().insert(header::LOCATION, place);
    response
}

/// The operator's own words in place of the page of an error.
pub fn text(status: StatusCode, text: String) -> Response<Bytes> {
    let mut response = error(status, Detail::Plain);
    *response.body_mut() = Bytes::from(text);
    response
}

/// Whether the connection is closed after an answer of our own, as httpd does after these.
pub const fn closes(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        400 | 405 | 408 | 411 | 413 | 414 | 417 | 500 | 501 | 503 | 505
    )
}

const fn meaning(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "The request is malformed.",
        403 => "You may not access this resource.",
        404 => "There is nothing at this address.",
        405 => "This method is not allowed here.",
        408 => "The request did not arrive in time.",
        414 => "The request line is longer than this server allows.",
        421 => {
            "This connection was made for another name, whose TLS is not that of the one asked for."
        }
        417 => "The Expect field asks for something this server cannot do.",
        501 => "The request uses something this server does not implement.",
        502 => "The server behind this proxy gave no valid answer.",
        503 => "No server is able to take the request at the moment. Please try again later.",
        504 => "The server behind this proxy did not take the request in time.",
        505 => "This HTTP version is not supported.",
        _ => "The server could not complete the request.",
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_errors_say_so_in_status_line_and_page() {
        let page = error(StatusCode::BAD_GATEWAY, Detail::Proxy("a <b>"));
        let reason = page.extensions().get::<ReasonPhrase>().expect("reason");
        assert_eq!(reason.as_bytes(), b"Proxy Error");
        let body = String::from_utf8(page.body().to_vec()).expect("ASCII");
        assert!(body.contains("<title>502 Proxy Error</title>"));
        assert!(body.contains("<strong>a &lt;b&gt;</strong>"));
    }

    #[test]
    fn plain_pages_carry_the_standard_reason() {
        let page = error(StatusCode::SERVICE_UNAVAILABLE, Detail::Plain);
        assert!(page.extensions().get::<ReasonPhrase>().is_none());
        assert!(page.body().starts_with(b"<!DOCTYPE html>"));
        assert!(closes(StatusCode::SERVICE_UNAVAILABLE) && !closes(StatusCode::NOT_FOUND));
    }
}
