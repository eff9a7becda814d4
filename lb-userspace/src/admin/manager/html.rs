//! The page. Tables, links and fields are httpd's (apache.md 9.3), in this order, because scripts
//! read them; style, script and the last two columns are ours.
//!
//! It works without its script, which adds numbers that move and a question before a member is
//! taken out.

use std::{
    fmt::{self, Write as _},
    sync::LazyLock,
};

use base64::Engine as _;
use lb_common::member::MemberState;
use sha2::{Digest as _, Sha256};

use super::{
    BalancerView, Escaped as E, Factor, InQuery, Outcome, View, WorkerView,
    edit::{CHECKS, LBMETHODS, Letter},
};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// What is shown below the tables, and above them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shown<'a> {
    /// Whose form: balancer and, where it is a member's, member, by index.
    pub form: Option<(usize, Option<usize>)>,
    /// What became of what was asked.
    pub outcome: Option<&'a Outcome>,
}

/// `Content-Security-Policy` of the page: its own style and script, by hash, and nothing else.
pub fn policy() -> &'static str {
    static POLICY: LazyLock<String> = LazyLock::new(|| {
        let hash = |text: &str| {
            let digest = Sha256::digest(text.as_bytes());
            base64::engine::general_purpose::STANDARD.encode(digest)
        };
        format!(
            "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; \
             img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
            hash(STYLE),
            hash(SCRIPT)
        )
    });
    &POLICY
}

/// The page.
pub fn page(view: &View, shown: Shown<'_>) -> String {
    let mut out = Page(String::with_capacity(16 * 1024));
    out.all(view, shown);
    out.0
}

/// A page in the making. Writing to a String cannot fail.
struct Page(String);

/// Writes to the page.
macro_rules! put {
    ($page:expr, $($arg:tt)*) => {{ let _ = write!($page.0, $($arg)*); }};
}

/// A percent sign as a hidden field has to hold it: values are decoded twice, browsers encode once.
struct Hidden<'a>(&'a str);

impl fmt::Display for Hidden<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        E(&self.0.replace('%', "%25")).fmt(f)
    }
}

impl Page {
    fn all(&mut self, view: &View, shown: Shown<'_>) {
        put!(
            self,
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Balancer Manager</title>\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <link rel=\"icon\" href=\"data:,\">\n<style>{STYLE}</style>\n</head>\n<body><main>\n\
             <h1>Load Balancer Manager for {}</h1>\n",
            E(&view.host)
        );
        let (class, said) = match shown.outcome {
            None => ("", ""),
            Some(Outcome::Done(said)) => ("done", said.as_str()),
            Some(Outcome::Refused(said)) => ("refused", said.as_str()),
        };
        put!(
            self,
            "<p id=\"outcome\" class=\"{class}\" role=\"status\">{}</p>\n<h2>Balancers</h2>\n",
            E(said)
        );
        if view.balancers.is_empty() {
            put!(self, "<p>This virtual host has no balancer.</p>\n");
        }
        for (index, balancer) in view.balancers.iter().enumerate() {
            self.balancer(view, index, balancer);
        }
        if let Some((at, worker)) = shown.form
            && let Some(balancer) = view.balancers.get(at)
        {
            match worker.and_then(|worker| balancer.workers.get(worker)) {
                Some(worker) => self.worker_form(view, balancer, worker),
                None => self.balancer_form(view, balancer),
            }
        }
        put!(
            self,
            "</main>\n<footer><p id=\"live\">Numbers are those of the moment at which the page was made.</p>\n\
             <p>Server Version: Apache/2.4.71 (compatible; sluice/{})</p></footer>\n\
             <dialog id=\"confirm\" aria-labelledby=\"confirm-text\"><form method=\"dialog\">\
             <p id=\"confirm-text\"></p><div><button value=\"no\">Cancel</button>\
             <button value=\"yes\" class=\"primary\" id=\"confirm-yes\">Yes</button></div></form></dialog>\n\
             <script>{SCRIPT}</script>\n</body></html>\n",
            env!("CARGO_PKG_VERSION")
        );
    }

    fn balancer(&mut self, view: &View, index: usize, balancer: &BalancerView) {
        let name = E(&balancer.name);
        put!(
            self,
            "<section aria-labelledby=\"b{index}\">\n\
             <h3 id=\"b{index}\">LoadBalancer Status for <a href=\"{}?b={}&amp;nonce={}\">balancer://{name}</a> [{}]</h3>\n",
            E(&view.path),
            E(&InQuery(&balancer.name).to_string()),
            E(&InQuery(&balancer.nonce).to_string()),
            E(&balancer.key),
        );
        self.settings(balancer);
        self.open_table(&format!("Members of balancer://{}", balancer.name));
        let checked = balancer.workers.iter().any(|w| w.hc_method != "NONE");
        for head in HEADS.iter().chain(if checked { HC_HEADS } else { &[] }) {
            self.head(head);
        }
        self.head("State");
        self.head("Actions");
        put!(self, "</tr></thead>\n<tbody>\n");
        for (number, worker) in balancer.workers.iter().enumerate() {
            self.worker(
                view,
                balancer,
                worker,
                checked,
                &format!("b{index}w{number}"),
            );
        }
        put!(self, "</tbody></table></div>\n");
        if balancer.nonce.is_empty() {
            put!(
                self,
                "<p>nonce=None: this page changes nothing of this balancer.</p>\n"
            );
        } else if balancer.room > 0 {
            self.open_form(view, balancer, None, "data-quick=\"reload\"");
            put!(
                self,
                "<input type=\"hidden\" name=\"b_wyes\" value=\"1\">\
                 <label for=\"b{index}add\">Add a member, disabled at first: URL</label>\
                 <input id=\"b{index}add\" name=\"b_nwrkr\" required placeholder=\"http://host:port\">\
                 <button>Add<span class=\"unseen\"> to balancer://{name}</span></button></form>\n"
            );
        }
        put!(self, "</section>\n");
    }

    /// The first table.
    fn settings(&mut self, balancer: &BalancerView) {
        self.open_table(&format!("Settings of balancer://{}", balancer.name));
        let heads = [
            "MaxMembers",
            "StickySession",
            "DisableFailover",
            "Timeout",
            "FailoverAttempts",
            "Method",
            "Path",
            "Active",
        ];
        for head in heads {
            self.head(head);
        }
        put!(self, "</tr></thead>\n<tbody><tr role=\"row\">\n");
        let used = balancer.workers.len();
        let sticky = balancer.sticky.as_ref();
        let sticky = sticky.map_or(" (None) ".to_owned(), |(cookie, path)| {
            if cookie == path {
                cookie.clone()
            } else {
                format!("{cookie}|{path}")
            }
        });
        let values = [
            format!("{} [{used} Used]", used + balancer.room as usize),
            sticky,
            on_off(balancer.nofailover).to_owned(),
            balancer.timeout_seconds.to_string(),
            balancer.maxattempts.unwrap_or(0).to_string(),
            balancer.lbmethod.to_owned(),
            balancer.path.clone(),
            "Yes".to_owned(),
        ];
        for (head, value) in heads.iter().zip(values) {
            self.cell(head, "", "", &value);
        }
        put!(self, "</tr></tbody></table></div>\n");
    }

    fn worker(
        &mut self,
        view: &View,
        balancer: &BalancerView,
        worker: &WorkerView,
        checked: bool,
        id: &str,
    ) {
        put!(
            self,
            "<tr role=\"row\" data-balancer=\"{}\" data-worker=\"{}\">\n\
             <td role=\"cell\" data-label=\"Worker URL\"><a href=\"{}?b={}&amp;w={}&amp;nonce={}\">{}</a></td>",
            E(&balancer.name),
            E(&worker.url),
            E(&view.path),
            E(&InQuery(&balancer.name).to_string()),
            E(&InQuery(&worker.url).to_string()),
            E(&InQuery(&balancer.nonce).to_string()),
            E(&worker.url),
        );
        self.cell("Route", "", "route", &worker.route);
        self.cell("RouteRedir", "", "redirect", &worker.redirect);
        self.cell(
            "Factor",
            "number",
            "factor",
            &Factor(worker.lbfactor).to_string(),
        );
        self.cell("Set", "number", "lbset", &worker.lbset.to_string());
        self.cell("Status", "", "status", &worker.status());
        self.cell("Elected", "number", "elected", &worker.elected.to_string());
        self.cell("Busy", "number", "busy", &worker.busy.to_string());
        self.cell("Load", "number", "lbstatus", &worker.lbstatus.to_string());
        self.cell("To", "number", "to", &super::size(worker.transferred));
        self.cell("From", "number", "from", &super::size(worker.read));
        if checked {
            self.cell("HC Method", "", "", worker.hc_method);
            self.cell(
                "HC Interval",
                "number",
                "",
                &format!("{}ms", worker.hc_interval_ms),
            );
            self.cell("Passes", "number", "", &worker.hc_passes.to_string());
            self.cell("Fails", "number", "", &worker.hc_fails.to_string());
            self.cell("HC uri", "", "", &worker.hc_uri);
            self.cell("HC Expr", "", "", if worker.hc_expr { "set" } else { "" });
        }
        let (class, words) = worker.in_words();
        put!(
            self,
            "<td role=\"cell\" data-label=\"State\"><span class=\"state {class}\">{}</span></td>\n\
             <td role=\"cell\" data-label=\"Actions\" class=\"actions\">",
            E(&words)
        );
        if balancer.nonce.is_empty() {
            put!(self, "none</td></tr>\n");
            return;
        }
        let url = &worker.url;
        let out = worker.is_out();
        let mut act = |word: &str, when: &str, ask: &str, fields: &[(&str, &str)]| {
            let hidden = if (when == "out") == out {
                ""
            } else {
                " hidden"
            };
            let ask = if ask.is_empty() {
                String::new()
            } else {
                format!(" data-confirm=\"{}\" data-button=\"{word}\"", E(ask))
            };
            let attributes = format!("data-quick=\"stay\" data-when=\"{when}\"{ask}{hidden}");
            self.open_form(view, balancer, Some(worker), &attributes);
            for (name, value) in fields {
                put!(
                    self,
                    "<input type=\"hidden\" name=\"{name}\" value=\"{value}\">"
                );
            }
            put!(
                self,
                "<button>{word}<span class=\"unseen\"> {}</span></button></form>",
                E(url)
            );
        };
        let ask = format!("Drain {url}? New sessions go to other members, existing ones stay.");
        act("Drain", "in", &ask, &[("w_status_N", "1")]);
        let ask = format!("Disable {url}? It gets no requests at all, its sessions move.");
        act("Disable", "in", &ask, &[("w_status_D", "1")]);
        let enable = [
            ("w_status_N", "0"),
            ("w_status_D", "0"),
            ("w_status_S", "0"),
        ];
        act("Enable", "out", "", &enable);
        self.open_form(view, balancer, Some(worker), "data-quick=\"stay\"");
        put!(
            self,
            "<label for=\"{id}lf\">Factor<span class=\"unseen\"> of {}</span></label>\
             <input type=\"number\" id=\"{id}lf\" name=\"w_lf\" min=\"1\" max=\"100\" step=\"0.01\" value=\"{}\">\
             <button>Set<span class=\"unseen\"> factor of {}</span></button></form></td></tr>\n",
            E(url),
            Factor(worker.lbfactor),
            E(url)
        );
    }

    fn balancer_form(&mut self, view: &View, balancer: &BalancerView) {
        put!(
            self,
            "<h3>Edit balancer settings for balancer://{}</h3>\n",
            E(&balancer.name)
        );
        self.open_form(view, balancer, None, "class=\"edit\"");
        put!(
            self,
            "<label for=\"b_lbm\">LBmethod:</label><select name=\"b_lbm\" id=\"b_lbm\">"
        );
        for (name, _) in LBMETHODS {
            let selected = if name == balancer.lbmethod {
                " selected"
            } else {
                ""
            };
            put!(self, "<option value=\"{name}\"{selected}>{name}</option>");
        }
        put!(self, "</select>\n");
        self.field(
            "b_tmo",
            "Timeout:",
            "number",
            &balancer.timeout_seconds.to_string(),
        );
        let attempts = balancer.maxattempts.unwrap_or(0).to_string();
        self.field("b_max", "Failover Attempts:", "number", &attempts);
        self.switch("b_sforce", "Disable Failover:", balancer.nofailover);
        let sticky = balancer.sticky.as_ref();
        let sticky = sticky.map(|(cookie, path)| {
            if cookie == path {
                cookie.clone()
            } else {
                format!("{cookie}|{path}")
            }
        });
        let label = "Sticky Session (Use '-' to delete):";
        self.field("b_ss", label, "text", &sticky.unwrap_or_default());
        if balancer.room > 0 {
            self.field("b_nwrkr", "Add New Worker:", "text", "");
            put!(
                self,
                "<label for=\"b_wyes\">Are you sure?</label>\
                 <input name=\"b_wyes\" id=\"b_wyes\" type=\"checkbox\" value=\"1\">\n"
            );
        }
        put!(
            self,
            "<div class=\"whole\"><button class=\"primary\">Submit</button></div></form>\n"
        );
    }

    fn worker_form(&mut self, view: &View, balancer: &BalancerView, worker: &WorkerView) {
        put!(
            self,
            "<h3>Edit worker settings for {}</h3>\n",
            E(&worker.url)
        );
        self.open_form(view, balancer, Some(worker), "class=\"edit\"");
        self.field(
            "w_lf",
            "Load factor:",
            "text",
            &Factor(worker.lbfactor).to_string(),
        );
        self.field("w_ls", "LB Set:", "number", &worker.lbset.to_string());
        self.field("w_wr", "Route:", "text", &worker.route);
        self.field("w_rr", "Route Redirect:", "text", &worker.redirect);
        for (letter, name, words) in Letter::ALL {
            if letter == Letter::C && worker.hc_method == "NONE" {
                continue;
            }
            if letter == Letter::C {
                let failed = worker.state.has(MemberState::HEALTH_FAILED);
                let failed = if failed { "Yes" } else { "No" };
                put!(
                    self,
                    "<p class=\"whole\">Health check failed: {failed}</p>\n"
                );
                continue;
            }
            self.switch(
                &format!("w_status_{name}"),
                words,
                worker.state.has(letter.bit()),
            );
        }
        put!(
            self,
            "<label for=\"w_hm\">Health check method:</label><select name=\"w_hm\" id=\"w_hm\">"
        );
        for (name, _) in CHECKS {
            let selected = if name == worker.hc_method {
                " selected"
            } else {
                ""
            };
            put!(self, "<option value=\"{name}\"{selected}>{name}</option>");
        }
        put!(self, "</select>\n");
        let interval = worker.hc_interval_ms.to_string();
        self.field("w_hi", "Interval (ms):", "number", &interval);
        self.field(
            "w_hp",
            "Passes trigger:",
            "number",
            &worker.hc_passes.to_string(),
        );
        self.field(
            "w_hf",
            "Fails trigger:",
            "number",
            &worker.hc_fails.to_string(),
        );
        self.field("w_hu", "HC uri:", "text", &worker.hc_uri);
        put!(
            self,
            "<div class=\"whole\"><button class=\"primary\">Submit</button></div></form>\n"
        );
    }

    /// A form that posts to the page, with what every change carries.
    fn open_form(
        &mut self,
        view: &View,
        balancer: &BalancerView,
        worker: Option<&WorkerView>,
        attributes: &str,
    ) {
        put!(
            self,
            "<form method=\"post\" action=\"{}\" {attributes}>\
             <input type=\"hidden\" name=\"b\" value=\"{}\"><input type=\"hidden\" name=\"nonce\" value=\"{}\">",
            E(&view.path),
            Hidden(&balancer.name),
            Hidden(&balancer.nonce),
        );
        if let Some(worker) = worker {
            put!(
                self,
                "<input type=\"hidden\" name=\"w\" value=\"{}\">",
                Hidden(&worker.url)
            );
        }
    }

    fn field(&mut self, name: &str, label: &str, kind: &str, value: &str) {
        put!(
            self,
            "<label for=\"{name}\">{}</label><input name=\"{name}\" id=\"{name}\" type=\"{kind}\" value=\"{}\">\n",
            E(label),
            E(value)
        );
    }

    /// Two radio buttons.
    fn switch(&mut self, name: &str, legend: &str, on: bool) {
        let checked = |this: bool| if this == on { " checked" } else { "" };
        put!(
            self,
            "<fieldset><legend>{}</legend>\
             <input name=\"{name}\" id=\"{name}1\" value=\"1\" type=\"radio\"{}> <label for=\"{name}1\">On</label>\
             <input name=\"{name}\" id=\"{name}0\" value=\"0\" type=\"radio\"{}> <label for=\"{name}0\">Off</label></fieldset>\n",
            E(legend),
            checked(true),
            checked(false)
        );
    }

    /// On a narrow screen tables are shown as cards; the roles say that they are tables still.
    fn open_table(&mut self, caption: &str) {
        put!(
            self,
            "<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"{}\">\
             <table role=\"table\"><caption class=\"unseen\">{}</caption><thead role=\"rowgroup\"><tr role=\"row\">",
            E(caption),
            E(caption)
        );
    }

    fn head(&mut self, name: &str) {
        put!(self, "<th role=\"columnheader\" scope=\"col\">{name}</th>");
    }

    fn cell(&mut self, label: &str, class: &str, key: &str, value: &str) {
        put!(self, "<td role=\"cell\" data-label=\"{label}\"");
        if !class.is_empty() {
            put!(self, " class=\"{class}\"");
        }
        if !key.is_empty() {
            put!(self, " data-key=\"{key}\"");
        }
        put!(self, ">{}</td>", E(value));
    }
}

const HEADS: &[&str] = &[
    "Worker URL",
    "Route",
    "RouteRedir",
    "Factor",
    "Set",
    "Status",
    "Elected",
    "Busy",
    "Load",
    "To",
    "From",
];
const HC_HEADS: &[&str] = &[
    "HC Method",
    "HC Interval",
    "Passes",
    "Fails",
    "HC uri",
    "HC Expr",
];

const fn on_off(on: bool) -> &'static str {
    if on { "On" } else { "Off" }
}
