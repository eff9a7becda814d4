//! Variables of expressions, by their names in httpd.

/// A variable. What a proxy has no value for reads as empty, as in httpd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Variable {
    /// A field of the request: `HTTP_HOST`, `HTTP_USER_AGENT`.
    Field(&'static str),
    /// `REQUEST_METHOD`.
    Method,
    /// `REQUEST_SCHEME`: `http` or `https`.
    Scheme,
    /// `REQUEST_URI`, `DOCUMENT_URI`: the path, decoded, without query.
    Uri,
    /// `REQUEST_FILENAME`, `SCRIPT_FILENAME`.
    Filename,
    /// `REMOTE_HOST`, `REMOTE_ADDR`: no names are looked up.
    RemoteAddress,
    /// `REMOTE_PORT`.
    RemotePort,
    /// `CONN_REMOTE_ADDR`: the peer's address, whatever it says of others.
    Peer,
    /// `REMOTE_USER`.
    User,
    /// `SERVER_ADMIN`.
    ServerAdmin,
    /// `SERVER_NAME`.
    ServerName,
    /// `SERVER_PORT`.
    ServerPort,
    /// `SERVER_PROTOCOL`: `HTTP/1.1`.
    Protocol,
    /// `QUERY_STRING`.
    Query,
    /// `THE_REQUEST`: the request line.
    RequestLine,
    /// `CONTENT_TYPE`: of the response.
    ContentType,
    /// `REQUEST_LOG_ID`.
    RequestLogId,
    /// `CONN_LOG_ID`.
    ConnectionLogId,
    /// `REQUEST_STATUS`.
    Status,
    /// `HTTPS`: `on` or `off`.
    Https,
    /// `HTTP2`: `on` or `off`.
    Http2,
    /// `IPV6`: `on` or `off`.
    Ipv6,
    /// `SERVER_SOFTWARE`.
    ServerSoftware,
    /// `SSL_...`: the whole name.
    Tls(String),
    /// Known to httpd, always the same here.
    Constant(&'static str),
    /// A part of the local time.
    Time(TimePart),
}

/// A part of the local time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimePart {
    /// `TIME_YEAR`, four digits.
    Year,
    /// `TIME_MON`, 01..=12.
    Month,
    /// `TIME_DAY`, 01..=31.
    Day,
    /// `TIME_HOUR`.
    Hour,
    /// `TIME_MIN`.
    Minute,
    /// `TIME_SEC`.
    Second,
    /// `TIME_WDAY`, 0 is Sunday.
    Weekday,
    /// `TIME`: all but the weekday.
    All,
}

/// Local time as expressions read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Of the common era.
    pub year: i16,
    /// 1..=12.
    pub month: i8,
    /// 1..=31.
    pub day: i8,
    /// 0..=23.
    pub hour: i8,
    /// 0..=59.
    pub minute: i8,
    /// 0..=60.
    pub second: i8,
    /// 0..=6 from Sunday.
    pub weekday: i8,
}

impl From<&jiff::Zoned> for Moment {
    fn from(time: &jiff::Zoned) -> Self {
        Self {
            year: time.year(),
            month: time.month(),
            day: time.day(),
            hour: time.hour(),
            minute: time.minute(),
            second: time.second(),
            weekday: time.weekday().to_sunday_zero_offset(),
        }
    }
}

impl Moment {
    pub(crate) fn part(self, part: TimePart) -> String {
        match part {
            TimePart::Year => format!("{:04}", self.year),
            TimePart::Month => format!("{:02}", self.month),
            TimePart::Day => format!("{:02}", self.day),
            TimePart::Hour => format!("{:02}", self.hour),
            TimePart::Minute => format!("{:02}", self.minute),
            TimePart::Second => format!("{:02}", self.second),
            TimePart::Weekday => self.weekday.to_string(),
            TimePart::All => format!(
                "{:04}{:02}{:02}{:02}{:02}{:02}",
                self.year, self.month, self.day, self.hour, self.minute, self.second
            ),
        }
    }
}

impl Variable {
    /// The variable of this name, in any case.
    pub fn named(name: &str) -> Option<Self> {
        let upper = name.to_ascii_uppercase();
        let known = NAMES.iter().find(|(known, _)| *known == upper);
        match known {
            Some((_, variable)) => Some(variable.clone()),
            None if upper.starts_with("SSL_") => Some(Self::Tls(upper)),
            None => None,
        }
    }
}

/// Every name.
#[rustfmt::skip] // One row a line: it is read as a table.
const NAMES: &[(&str, Variable)] = &[
    ("HTTP_ACCEPT", Variable::Field("accept")),
    ("HTTP_COOKIE", Variable::Field("cookie")),
    ("HTTP_FORWARDED", Variable::Field("forwarded")),
    ("HTTP_HOST", Variable::Field("host")),
    ("HTTP_PROXY_CONNECTION", Variable::Field("proxy-connection")),
    ("HTTP_REFERER", Variable::Field("referer")),
    ("HTTP_USER_AGENT", Variable::Field("user-agent")),
    ("REQUEST_METHOD", Variable::Method),
    ("REQUEST_SCHEME", Variable::Scheme),
    ("REQUEST_URI", Variable::Uri),
    ("DOCUMENT_URI", Variable::Uri),
    ("REQUEST_FILENAME", Variable::Filename),
    ("SCRIPT_FILENAME", Variable::Filename),
    ("REMOTE_HOST", Variable::RemoteAddress),
    ("REMOTE_ADDR", Variable::RemoteAddress),
    ("REMOTE_PORT", Variable::RemotePort),
    ("CONN_REMOTE_ADDR", Variable::Peer),
    ("REMOTE_USER", Variable::User),
    ("REMOTE_IDENT", Variable::Constant("unknown")),
    ("SERVER_ADMIN", Variable::ServerAdmin),
    ("SERVER_NAME", Variable::ServerName),
    ("SERVER_PORT", Variable::ServerPort),
    ("SERVER_PROTOCOL", Variable::Protocol),
    ("QUERY_STRING", Variable::Query),
    ("THE_REQUEST", Variable::RequestLine),
    ("CONTENT_TYPE", Variable::ContentType),
    ("REQUEST_LOG_ID", Variable::RequestLogId),
    ("CONN_LOG_ID", Variable::ConnectionLogId),
    ("REQUEST_STATUS", Variable::Status),
    ("HTTPS", Variable::Https),
    ("HTTP2", Variable::Http2),
    ("IPV6", Variable::Ipv6),
    ("SERVER_SOFTWARE", Variable::ServerSoftware),
    ("IS_SUBREQ", Variable::Constant("false")),
    ("PATH_INFO", Variable::Constant("")),
    ("DOCUMENT_ROOT", Variable::Constant("")),
    ("AUTH_TYPE", Variable::Constant("")),
    ("HANDLER", Variable::Constant("proxy-server")),
    ("SCRIPT_USER", Variable::Constant("")),
    ("SCRIPT_GROUP", Variable::Constant("")),
    ("LAST_MODIFIED", Variable::Constant("19700101000000")),
    ("CONTEXT_PREFIX", Variable::Constant("")),
    ("CONTEXT_DOCUMENT_ROOT", Variable::Constant("")),
    ("API_VERSION", Variable::Constant("20120211")),
    ("TIME_YEAR", Variable::Time(TimePart::Year)),
    ("TIME_MON", Variable::Time(TimePart::Month)),
    ("TIME_DAY", Variable::Time(TimePart::Day)),
    ("TIME_HOUR", Variable::Time(TimePart::Hour)),
    ("TIME_MIN", Variable::Time(TimePart::Minute)),
    ("TIME_SEC", Variable::Time(TimePart::Second)),
    ("TIME_WDAY", Variable::Time(TimePart::Weekday)),
    ("TIME", Variable::Time(TimePart::All)),
];
