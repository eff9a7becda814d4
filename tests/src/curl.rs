//! curl as the client: one request with everything it answered, or many over kept connections.

use std::{
    fmt::Write as _,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};

use crate::Namespace;

/// A curl to be: where it runs and with which options.
#[derive(Clone, Debug)]
pub struct Curl {
    namespace: Option<Namespace>,
    options: Vec<String>,
}

/// What one request got.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// HTTP status; 0 if there was no response.
    pub status: u16,
    /// Header lines in order, names as they were sent.
    pub headers: Vec<(String, String)>,
    /// Body, as text.
    pub body: String,
    /// curl's exit code: 7 refused, 28 too slow, 52 empty reply, 18 cut short, 56 reset.
    pub exit: i32,
}

impl Response {
    /// First header of this name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(candidate, _)| candidate.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body with white space around it taken off: which member answered `/name`.
    pub fn text(&self) -> &str {
        self.body.trim()
    }

    /// The body as JSON: what a member says it was sent.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.body).with_context(|| format!("not JSON: {}", self.body))
    }
}

/// One line of a series: which body, which status.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// Body, one line.
    pub body: String,
    /// HTTP status; 0 if there was no response.
    pub status: u16,
}

impl Curl {
    /// In a namespace.
    pub fn inside(namespace: &Namespace) -> Self {
        Self {
            namespace: Some(namespace.clone()),
            options: Vec::new(),
        }
    }

    /// On this host itself (the loopback variant of the demo).
    pub const fn here() -> Self {
        Self {
            namespace: None,
            options: Vec::new(),
        }
    }

    /// Adds an option as on curl's command line.
    #[must_use]
    pub fn option(mut self, option: impl Into<String>) -> Self {
        self.options.push(option.into());
        self
    }

    /// Adds a request header.
    #[must_use]
    pub fn header(self, line: impl Into<String>) -> Self {
        self.option("-H").option(line)
    }

    /// One request.
    pub fn get(&self, url: &str) -> Result<Response> {
        let output = self
            .command()
            .args(["-i", "--suppress-connect-headers", url])
            .output()
            .context("running curl")?;
        let mut response = parse(&String::from_utf8_lossy(&output.stdout));
        response.exit = output.status.code().unwrap_or(-1);
        Ok(response)
    }

    /// `count` requests one after the other over as few connections as the server allows. The URL
    /// gets `n=1..count` added to its query. Bodies must be one line.
    pub fn series(&self, url: &str, count: u32) -> Result<Vec<Answer>> {
        let mut command = self.series_command(url, count);
        let output = command.output().context("running curl")?;
        Ok(answers(&String::from_utf8_lossy(&output.stdout)))
    }

    /// As [`Curl::series`], in the background.
    pub fn start_series(&self, url: &str, count: u32) -> Result<Series> {
        let child = self
            .series_command(url, count)
            .spawn()
            .context("running curl")?;
        Ok(Series { child })
    }

    fn series_command(&self, url: &str, count: u32) -> Command {
        let joint = if url.contains('?') { '&' } else { '?' };
        let mut command = self.command();
        command
            .args(["-w", " %{http_code}\\n", "--no-progress-meter"])
            .arg(format!("{url}{joint}n=[1-{count}]"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        command
    }

    fn command(&self) -> Command {
        let mut command = match &self.namespace {
            Some(namespace) => namespace.command("curl"),
            None => Command::new("curl"),
        };
        // -q: not this user's .curlrc; a proxy of the environment would lead out of the lab.
        command
            .args(["-q", "--silent", "--noproxy", "*", "--max-time", "30"])
            .args(&self.options)
            .stdin(Stdio::null());
        command
    }
}

/// A series under way.
#[derive(Debug)]
pub struct Series {
    child: Child,
}

impl Series {
    /// Waits for its end.
    pub fn finish(self) -> Result<Vec<Answer>> {
        let output = self.child.wait_with_output()?;
        Ok(answers(&String::from_utf8_lossy(&output.stdout)))
    }
}

/// Answers as the letters that the demo prints: the body, or the status where it was not 200.
pub fn letters(answers: &[Answer]) -> String {
    let mut text = String::new();
    for answer in answers {
        if !text.is_empty() {
            text.push(' ');
        }
        if answer.status == 200 {
            text.push_str(&answer.body);
        } else {
            let _ = write!(text, "{}", answer.status);
        }
    }
    text
}

fn answers(text: &str) -> Vec<Answer> {
    // The body may end in a line break of its own: the status is then alone on its line.
    let mut found = Vec::new();
    let mut pending = String::new();
    for line in text.lines() {
        match line.rsplit_once(' ') {
            Some((body, code)) if code.len() == 3 && code.parse::<u16>().is_ok() => {
                pending.push_str(body);
                found.push(Answer {
                    body: std::mem::take(&mut pending),
                    status: code.parse().unwrap_or_default(),
                });
            }
            _ => pending.push_str(line),
        }
    }
    found
}

fn parse(text: &str) -> Response {
    let mut rest = text;
    loop {
        let (head, body) = rest.split_once("\r\n\r\n").unwrap_or((rest, ""));
        let mut lines = head.lines();
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1))
            .and_then(|code| code.parse().ok())
            .unwrap_or(0);
        // Interim responses come first; what counts is the last one.
        if (100..200).contains(&status) && status != 101 {
            rest = body;
            continue;
        }
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        return Response {
            status,
            headers,
            body: body.to_owned(),
            exit: 0,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, answers, letters, parse};

    #[test]
    fn interim_response_is_passed_over() {
        let response =
            parse("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nA: b\r\n\r\nbody");
        assert_eq!((response.status, response.header("a")), (200, Some("b")));
        assert_eq!(response.text(), "body");
    }

    #[test]
    fn no_response_is_status_zero() {
        assert_eq!(parse("").status, 0);
    }

    #[test]
    fn series_is_read_with_and_without_final_line_break() {
        let wanted = [("a", 200), ("b", 200), ("", 0)].map(|(body, status)| Answer {
            body: body.to_owned(),
            status,
        });
        assert_eq!(answers("a\n 200\nb 200\n 000\n"), wanted);
        assert_eq!(letters(&wanted), "a b 0");
    }
}
