//! A small DevTools client: Chromium without a window, spoken to over a pair of pipes.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    thread,
    time::Instant,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::super::harness::PATIENCE;

/// One browser with one page.
pub(crate) struct Browser {
    child: Child,
    commands: ChildStdin,
    messages: mpsc::Receiver<Value>,
    next: u64,
    session: Value,
    complaints: Vec<String>,
    _profile: TempDir,
}

/// Keys that do something.
#[derive(Clone, Copy)]
pub(crate) enum Key {
    Tab,
    Enter,
    Escape,
}

impl Browser {
    pub(crate) fn start() -> Self {
        let profile = tempfile::tempdir().expect("directory");
        // The browser reads commands from descriptor 3 and answers on 4.
        let mut child = Command::new("sh")
            .args([
                "-c",
                r#"exec chromium "$@" 3<&0 4>&1 0</dev/null 1>/dev/null"#,
                "sh",
            ])
            .args([
                "--headless=new",
                "--no-sandbox",
                "--remote-debugging-pipe",
                "--disable-gpu",
            ])
            .args([
                "--no-first-run",
                "--disable-background-networking",
                "--disable-extensions",
            ])
            .args([
                "--disable-dev-shm-usage",
                "--disable-component-update",
                "--no-proxy-server",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromium starts (`cargo xtask setup` installs it)");
        let commands = child.stdin.take().expect("piped");
        let mut answers = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, messages) = mpsc::channel();
        thread::spawn(move || {
            loop {
                let mut text = Vec::new();
                // Ends with the browser, or with the test.
                if answers.read_until(0, &mut text).unwrap_or(0) == 0 {
                    return;
                }
                text.pop();
                let Ok(message) = serde_json::from_slice(&text) else {
                    return;
                };
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let mut this = Self {
            child,
            commands,
            messages,
            next: 0,
            session: Value::Null,
            complaints: Vec::new(),
            _profile: profile,
        };
        let target = this.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attached = this.call(
            "Target.attachToTarget",
            json!({ "targetId": target["targetId"], "flatten": true }),
        );
        this.session = attached["sessionId"].clone();
        for domain in ["Page", "Runtime", "Log", "Accessibility"] {
            this.call(&format!("{domain}.enable"), json!({}));
        }
        this
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        let answered = self.try_call(method, params);
        answered.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// `Err`: what the browser says is wrong.
    #[expect(clippy::needless_pass_by_value, reason = "a literal at each call")]
    fn try_call(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        self.next += 1;
        let mut command = json!({ "id": self.next, "method": method, "params": params });
        if !self.session.is_null() {
            command["sessionId"] = self.session.clone();
        }
        let mut text = serde_json::to_vec(&command).expect("JSON");
        text.push(0);
        self.commands.write_all(&text).expect("the browser listens");
        loop {
            let message = self
                .messages
                .recv_timeout(PATIENCE)
                .expect("the browser answers");
            if message["id"] == self.next {
                return match &message["error"] {
                    Value::Null => Ok(message["result"].clone()),
                    error => Err(error.clone()),
                };
            }
            self.note(&message);
        }
    }

    /// What a page's author would see in red.
    fn note(&mut self, message: &Value) {
        let entry = &message["params"]["entry"];
        if message["method"] == "Log.entryAdded" && entry["level"] == "error" {
            self.complaints.push(entry["text"].to_string());
        }
        if message["method"] == "Runtime.exceptionThrown" {
            self.complaints.push(message["params"].to_string());
        }
    }

    /// Errors of script and policy until now.
    pub(crate) fn complaints(&mut self) -> Vec<String> {
        // What was said before this has been read once it is answered.
        self.run("0");
        self.complaints.clone()
    }

    pub(crate) fn go(&mut self, url: &str) {
        let went = self.call("Page.navigate", json!({ "url": url }));
        assert!(went["errorText"].is_null(), "{went}");
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'");
    }

    /// Evaluates a script; `None` while a page is being left.
    fn evaluate(&mut self, script: &str) -> Option<Value> {
        let params = json!({ "expression": script, "returnByValue": true, "awaitPromise": true });
        let result = match self.try_call("Runtime.evaluate", params) {
            Ok(result) => result,
            // The page was left meanwhile.
            Err(error) if error["code"] == -32000 => return None,
            Err(error) => panic!("{script}: {error}"),
        };
        result["exceptionDetails"]
            .is_null()
            .then(|| result["result"]["value"].clone())
    }

    pub(crate) fn run(&mut self, script: &str) {
        self.evaluate(script)
            .unwrap_or_else(|| panic!("threw: {script}"));
    }

    pub(crate) fn text(&mut self, script: &str) -> String {
        let value = self
            .evaluate(script)
            .unwrap_or_else(|| panic!("threw: {script}"));
        value
            .as_str()
            .unwrap_or_else(|| panic!("no text: {script}: {value}"))
            .to_owned()
    }

    pub(crate) fn holds(&mut self, script: &str) -> bool {
        self.evaluate(&format!("!!({script})")) == Some(Value::Bool(true))
    }

    /// Until it holds.
    pub(crate) fn wait(&mut self, script: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.holds(script) {
            if Instant::now() > deadline {
                let page = self.evaluate("document.body.innerText");
                panic!("never: {script}; the page: {page:?}");
            }
            thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// A real click in the middle of an element.
    pub(crate) fn click(&mut self, element: &str) {
        self.wait(&format!(
            "{element}?.offsetParent || {element}?.closest('dialog[open]')"
        ));
        let script = format!(
            "(() => {{ const at = {element}; at.scrollIntoView({{ block: 'center' }}); \
             const box = at.getBoundingClientRect(); \
             return (box.x + box.width / 2) + ' ' + (box.y + box.height / 2); }})()"
        );
        let place = self.text(&script);
        let (x, y) = place.split_once(' ').expect("two numbers");
        let (x, y): (f64, f64) = (x.parse().expect("number"), y.parse().expect("number"));
        for kind in ["mousePressed", "mouseReleased"] {
            let params = json!({ "type": kind, "x": x, "y": y, "button": "left", "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", params);
        }
    }

    pub(crate) fn press(&mut self, key: Key) {
        let (name, code, text) = match key {
            Key::Tab => ("Tab", 9, ""),
            Key::Enter => ("Enter", 13, "\r"),
            Key::Escape => ("Escape", 27, ""),
        };
        for kind in ["keyDown", "keyUp"] {
            let mut params =
                json!({ "type": kind, "key": name, "code": name, "windowsVirtualKeyCode": code });
            if kind == "keyDown" && !text.is_empty() {
                params["text"] = text.into();
            }
            self.call("Input.dispatchKeyEvent", params);
        }
    }

    /// Types into what has the focus.
    pub(crate) fn write(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text }));
    }

    pub(crate) fn viewport(&mut self, width: u32, height: u32) {
        let mobile = width < 500;
        let params =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile });
        self.call("Emulation.setDeviceMetricsOverride", params);
    }

    pub(crate) fn scheme(&mut self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        let feature = json!({ "name": "prefers-color-scheme", "value": value });
        self.call(
            "Emulation.setEmulatedMedia",
            json!({ "features": [feature] }),
        );
    }

    /// Takes a page's own policy away, as an attacker's page has none.
    pub(crate) fn allow_anything(&mut self) {
        self.call("Page.setBypassCSP", json!({ "enabled": true }));
    }

    /// Role and name of everything in the accessibility tree.
    pub(crate) fn roles(&mut self) -> Vec<(String, String)> {
        let tree = self.call("Accessibility.getFullAXTree", json!({}));
        let nodes = tree["nodes"].as_array().cloned().unwrap_or_default();
        let word = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
        nodes
            .iter()
            .filter(|node| node["ignored"] != true)
            .map(|node| (word(&node["role"]), word(&node["name"])))
            .collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
