//! `?xml=1`, element for element as httpd 2.4.71 writes it (apache.md 9.4).

use std::fmt::Write as _;

use super::{BalancerView, Escaped, Factor, View, WorkerView};

/// The document. `date`: of a moment that many seconds ago, for `error_time`.
pub fn xml(view: &View, date: impl Fn(u64) -> String) -> String {
    let mut out = String::from(
        "<?xml version='1.0' encoding='UTF-8' ?>\n\
         <httpd:manager xmlns:httpd='http://httpd.apache.org'>\n  <httpd:balancers>\n",
    );
    for balancer in &view.balancers {
        one_balancer(&mut out, balancer, &date);
    }
    out.push_str("  </httpd:balancers>\n</httpd:manager>");
    out
}

fn one_balancer(out: &mut String, balancer: &BalancerView, date: &dyn Fn(u64) -> String) {
    let indent = "      ";
    out.push_str("    <httpd:balancer>\n");
    element(
        out,
        indent,
        "name",
        &format!("balancer://{}", balancer.name),
    );
    element(out, indent, "nonce", &balancer.nonce);
    if let Some((cookie, _)) = &balancer.sticky {
        element(out, indent, "stickysession", cookie);
        if balancer.nofailover {
            element(out, indent, "nofailover", "On");
        }
    }
    element(
        out,
        indent,
        "timeout",
        &balancer.timeout_seconds.to_string(),
    );
    if let Some(attempts) = balancer.maxattempts {
        element(out, indent, "maxattempts", &attempts.to_string());
    }
    element(out, indent, "lbmethod", balancer.lbmethod);
    if balancer.scolonpathdelim {
        element(out, indent, "scolonpathdelim", "On");
    }
    out.push_str("      <httpd:workers>\n");
    for worker in &balancer.workers {
        one_worker(out, worker, date);
    }
    out.push_str("      </httpd:workers>\n    </httpd:balancer>\n");
}

fn one_worker(out: &mut String, worker: &WorkerView, date: &dyn Fn(u64) -> String) {
    let factor = Factor(worker.lbfactor).to_string();
    out.push_str("        <httpd:worker>\n");
    let mut say = |name: &str, value: &str| element(out, "          ", name, value);
    say("name", &worker.url);
    say("scheme", worker.scheme);
    say("hostname", &worker.hostname);
    say("loadfactor", &factor);
    say("port", &worker.port.to_string());
    say("min", "0");
    say("smax", &worker.max.to_string());
    say("max", &worker.max.to_string());
    say("ttl", &worker.ttl_seconds.to_string());
    if let Some(seconds) = worker.timeout_seconds {
        say("timeout", &seconds.to_string());
    }
    if let Some(ms) = worker.acquire_ms {
        say("acquire", &ms.to_string());
    }
    if worker.keepalive {
        say("keepalive", "On");
    }
    say("status", &worker.status());
    if let Some(age) = worker.error_seconds {
        say("error_time", &date(age));
    }
    say("retries", &worker.retries.to_string());
    say("lbstatus", &worker.lbstatus.to_string());
    say("loadfactor", &factor);
    say("transferred", &worker.transferred.to_string());
    say("read", &worker.read.to_string());
    say("elected", &worker.elected.to_string());
    say("route", &worker.route);
    say("redirect", &worker.redirect);
    say("busy", &worker.busy.to_string());
    say("lbset", &worker.lbset.to_string());
    if worker.disablereuse {
        say("disablereuse", "On");
    }
    if let Some(ms) = worker.connection_timeout_ms {
        // httpd writes the milliseconds of the second, not those of the whole: 2 s are 0.
        say("connectiontimeout", &(ms % 1000).to_string());
    }
    if worker.retry_seconds != 60 {
        say("retry", &worker.retry_seconds.to_string());
    }
    out.push_str("        </httpd:worker>\n");
}

fn element(out: &mut String, indent: &str, name: &str, value: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "{indent}<httpd:{name}>{}</httpd:{name}>",
        Escaped(value)
    );
}
