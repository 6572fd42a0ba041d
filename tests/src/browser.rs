//! A browser without a window, driven by what the DevTools protocol offers on a pair of pipes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::place::Folder;
use crate::wait::{Deadline, Process, Signal, readable};

/// What a browser may be called: Debian's, and those of machines that have another.
const NAMES: [&str; 4] = ["chromium-headless-shell", "chromium", "google-chrome", "chrome"];

/// A browser with one page. It ends when this is dropped.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    process: Process,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    session: Option<String>,
    number: u64,
    /// What it told without being asked.
    told: Vec<Value>,
    _folder: Folder,
}

impl Browser {
    /// Starts one, with a window of this size.
    ///
    /// # Panics
    /// When there is none, or it does not start.
    #[must_use]
    #[track_caller]
    pub fn start(width: u32, height: u32) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = NAMES
            .iter()
            .find_map(|name| {
                std::env::split_paths(&path).map(|folder| folder.join(name)).find(|p| p.is_file())
            })
            .expect("a browser: `cargo xtask setup` installs it");
        let folder = Folder::new();
        // It reads commands from descriptor 3 and answers on 4.
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null"])
            .arg(found)
            .args([
                "--headless",
                "--remote-debugging-pipe",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
            ])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--no-proxy-server", "--disable-dev-shm-usage", "--hide-scrollbars"])
            .arg(format!("--user-data-dir={}", folder.path().display()))
            .arg(format!("--window-size={width},{height}"))
            .env("HOME", folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh");
        let (to, from) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        let process = Process::of(child.id());
        let (number, told, session) = (0, Vec::new(), None);
        let from = BufReader::new(from);
        let mut browser = Self { child, process, to, from, session, number, told, _folder: folder };
        let target =
            browser.asks("Target.createTarget", &json!({ "url": "about:blank" }))["targetId"].clone();
        let attached = browser.asks("Target.attachToTarget", &json!({ "targetId": target, "flatten": true }));
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.asks(&format!("{domain}.enable"), &json!({}));
        }
        browser
    }

    #[track_caller]
    fn receives(&mut self) -> Value {
        let mut message = Vec::new();
        if self.from.buffer().is_empty() {
            let ready = readable([self.from.get_ref().as_fd(), self.process.as_fd()], Deadline::patient());
            assert!(ready.is_some(), "the browser says nothing");
        }
        self.from.read_until(0, &mut message).expect("what the browser says");
        assert_eq!(message.pop(), Some(0), "the browser has ended");
        serde_json::from_slice(&message).expect("JSON")
    }

    /// Gives a command, and what came of it.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn asks(&mut self, method: &str, parameters: &Value) -> Value {
        self.number += 1;
        let mut command = json!({ "id": self.number, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            command["sessionId"] = session.clone().into();
        }
        self.to.write_all(format!("{command}\0").as_bytes()).expect("a browser that listens");
        loop {
            let message = self.receives();
            if message["id"] == self.number {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
            self.told.push(message);
        }
    }

    /// Opens a file, and returns when it is there.
    #[track_caller]
    pub fn opens(&mut self, page: &Path) {
        let url = format!("file://{}", page.display());
        self.asks("Page.navigate", &json!({ "url": url }));
        while !self.told.iter().any(|message| message["method"] == "Page.loadEventFired") {
            let message = self.receives();
            self.told.push(message);
        }
    }

    /// What a JavaScript expression is.
    ///
    /// # Panics
    /// When it throws.
    #[track_caller]
    pub fn evaluates(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "returnByValue": true });
        let answer = self.asks("Runtime.evaluate", &parameters);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Clicks into the middle of the element that an expression gives.
    #[track_caller]
    pub fn clicks(&mut self, element: &str) {
        let place = self.evaluates(&format!(
            "(() => {{ const e = {element}; e.scrollIntoView({{block: 'center'}}); \
             const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})()"
        ));
        for kind in ["mousePressed", "mouseReleased"] {
            let parameters = json!({
                "type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1
            });
            self.asks("Input.dispatchMouseEvent", &parameters);
        }
    }

    /// Presses a key.
    #[track_caller]
    pub fn presses(&mut self, key: &str, code: u32) {
        // A key that types something does nothing without what it types.
        let (down, text) = if key == "Enter" { ("keyDown", "\r") } else { ("rawKeyDown", "") };
        for (kind, text) in [(down, text), ("keyUp", "")] {
            let parameters = json!({
                "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text
            });
            self.asks("Input.dispatchKeyEvent", &parameters);
        }
    }

    /// Writes a picture of the page, as a PNG in base64.
    #[track_caller]
    pub fn picture(&mut self) -> String {
        let parameters = json!({ "format": "png", "captureBeyondViewport": true });
        let answer = self.asks("Page.captureScreenshot", &parameters);
        answer["data"].as_str().unwrap_or_default().to_owned()
    }

    /// What it complained of so far: errors of scripts, everything on the console, and what its policy forbade.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let complains = |message: &&Value| {
            let method = message["method"].as_str();
            matches!(method, Some("Log.entryAdded" | "Runtime.exceptionThrown" | "Runtime.consoleAPICalled"))
        };
        self.told.iter().filter(complains).map(ToString::to_string).collect()
    }

    /// What it wanted to load so far.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        let sent = self.told.iter().filter(|message| message["method"] == "Network.requestWillBeSent");
        sent.map(|message| message["params"]["request"]["url"].as_str().unwrap_or_default().to_owned())
            .collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.session = None;
        // In order, so that it ends its own children; whatever happens, it does not stay.
        let _asked = self.to.write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        if !self.process.ended(Deadline::patient()) {
            self.process.signal(Signal::KILL);
        }
        drop(self.child.wait());
    }
}
