//! Reload: the same path as a start, beside the running generation. A failing one changes nothing.

use std::sync::Arc;

use super::{
    certificates::{self, Watch},
    child::{ChildError, Delivery},
    control::{Control, count},
    inbox::Stopped,
    manager,
    notify::{Notice, notify},
    preflight::{self, Logs},
    scrape::Scrape,
    start::without_dataplane,
};
use crate::{
    config::{self, Severity, spec::Spec},
    dataplane::Desired,
    telemetry::error_log,
};

impl Control {
    /// Reads the file again and switches to it; what changed, or every reason why not.
    pub(super) async fn reload(&mut self) -> Result<String, String> {
        if self.is_stopping() {
            return Err("the service is stopping".to_owned());
        }
        notify(Notice::Reloading);
        tracing::info!(notice = true, "reading the configuration again");
        let result = self.try_reload().await;
        if result.is_err() {
            self.reopen_logs().await;
        }
        self.ledger.reloaded(result.is_ok());
        notify(Notice::Ready);
        match &result {
            Ok(done) => {
                for line in done.lines() {
                    tracing::info!(notice = true, "{line}");
                }
            }
            Err(why) => {
                tracing::error!("reload refused, nothing changed");
                for line in why.lines() {
                    tracing::error!("{line}");
                }
            }
        }
        result
    }

    async fn try_reload(&mut self) -> Result<String, String> {
        let loaded = config::load(&self.options.file, &self.options.config);
        let reports = |least: Severity| {
            loaded
                .reports
                .iter()
                .filter(|report| report.severity >= least)
                .map(config::Report::render)
                .collect::<Vec<_>>()
                .join("\n")
        };
        let Some(spec) = loaded.spec.clone() else {
            return Err(reports(Severity::Error));
        };
        let warnings = reports(Severity::Warning);
        for line in warnings.lines() {
            tracing::warn!("{line}");
        }
        let spec = without_dataplane(Arc::new(spec), self.options.no_xdp);
        let mut notices = self.restart_only(&spec)?;
        // Nothing of it counts before the reload has succeeded.
        let mut kept = self.kept.clone();
        let (spec, said) = manager::put_over(spec, &mut kept);
        notices.extend(said);
        notices.extend(preflight::doubts(&spec));

        let text = |error: preflight::PreflightError| error.to_string();
        preflight::identity(&spec).map_err(text)?;
        preflight::new_interfaces(&spec, &self.desired.spec).map_err(text)?;
        let logs = Logs::open(&spec, Some(&self.logs)).map_err(text)?;
        let tls = certificates::load(&spec).map_err(|errors| certificates::lines(&errors))?;
        let watch = Watch::new(&tls);
        for line in &tls.warnings {
            tracing::warn!("{line}");
        }
        let stopped = |stopped: Stopped| stopped.to_string();
        // Names that are in use stay where they are: a name server that is away must not move them.
        let names = preflight::resolve(&spec, self.found_names());
        let (addresses, unresolved) = self.attend(names).await.map_err(stopped)?;
        if !unresolved.is_empty() {
            let lines: Vec<String> = unresolved.into_iter().map(text).collect();
            return Err(lines.join("\n"));
        }
        let bound = (self.listeners).rebind(&spec.listeners, &self.steered, spec.listen_backlog);
        let listeners = (self.attend(bound).await)
            .map_err(stopped)?
            .map_err(|error| error.to_string())?;
        // A new socket is bound beside the one that serves, which goes when this has succeeded.
        let scrape = Scrape::of(&spec.sluice, self.scrape.as_ref(), &self.ask)
            .map_err(|error| error.to_string())?;
        let desired = Desired {
            addresses,
            spec: Arc::clone(&spec),
        };
        let published = self
            .dataplane
            .publish(&desired)
            .map_err(|error| error.to_string())?;
        notices.extend(published.notices.iter().cloned());
        let table = self.dataplane.table();
        notices.extend(self.ledger.published(&spec, &published, &table));

        let delivery = Delivery {
            number: published.generation,
            spec: &spec,
            ids: &published.ids,
            listeners: &listeners,
            logs: &logs,
            certificates: &tls.certificates,
            tickets: &self.tickets,
            shards: self.pins.len(),
        };
        let delivered = self.hand_over(delivery).await;
        self.settle(delivered, published.program)?;
        let message = summary(&self.desired.spec, &spec, published.generation, &notices);
        self.desired = desired;
        self.published = published;
        self.kept = kept;
        self.listeners = listeners;
        self.logs = logs;
        self.scrape = scrape;
        self.certificates = tls.certificates;
        self.watch = watch;
        self.notices = notices;
        self.forget_names();
        error_log::configure(self.logs.error_targets(&spec));
        Ok(message)
    }

    /// Gives the proxy a generation that was published.
    pub(super) async fn hand_over(
        &self,
        delivery: Delivery<'_>,
    ) -> Result<Result<(), ChildError>, Stopped> {
        match &self.proxy {
            Some(proxy) => self.attend(proxy.deliver(delivery)).await,
            // Dead and about to be restarted, with this generation.
            None => Ok(Ok(())),
        }
    }

    /// Goes back to the generation that is on where the proxy did not take the next one. `program`:
    /// it was loaded anew.
    pub(super) fn settle(
        &mut self,
        delivered: Result<Result<(), ChildError>, Stopped>,
        program: bool,
    ) -> Result<(), String> {
        if program {
            super::start::follow_new(&mut self.dataplane);
        }
        match delivered {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                self.unpublish();
                if !matches!(error, ChildError::Refused(_)) {
                    // Dead, dumb or out of step: a new process starts with the generation that is on.
                    self.proxy_ended(Some(&error.to_string()));
                }
                Err(error.to_string())
            }
            Err(stopped) => {
                self.unpublish();
                Err(stopped.to_string())
            }
        }
    }

    fn unpublish(&mut self) {
        if let Err(error) = self.dataplane.unpublish(&self.desired) {
            tracing::error!("the maps are between two generations, reload again: {error}");
        }
        let (spec, table) = (Arc::clone(&self.desired.spec), self.dataplane.table());
        // Its balancers had their histograms before.
        drop(self.ledger.published(&spec, &self.published, &table));
    }

    /// After a reload that failed: lets go of rotated log files, which is all that whoever rotates
    /// them wants. The generation stays.
    async fn reopen_logs(&mut self) {
        if !self.logs.are_rotated() {
            return;
        }
        let spec = Arc::clone(&self.desired.spec);
        match Logs::open(&spec, Some(&self.logs)) {
            Ok(logs) => self.logs = logs,
            Err(error) => {
                tracing::error!("log files not opened again: {error}");
                return;
            }
        }
        error_log::configure(self.logs.error_targets(&spec));
        let Some(proxy) = &self.proxy else {
            return;
        };
        match self.attend(proxy.deliver(self.delivery(&spec))).await {
            Ok(Ok(())) => tracing::info!(notice = true, "log files opened again"),
            Ok(Err(error)) => self.proxy_ended(Some(&error.to_string())),
            Err(Stopped) => {}
        }
    }

    /// What a reload cannot change: refused where going on would mislead, else a notice.
    fn restart_only(&self, new: &Spec) -> Result<Vec<String>, String> {
        let old = &self.desired.spec;
        let refuse = |what: &str| Err(format!("{what} cannot be changed by a reload: restart"));
        if !self.options.instance_given && new.sluice.instance != old.sluice.instance {
            return refuse("SluiceInstance");
        }
        if (&new.sluice.control, &new.sluice.control_group)
            != (&old.sluice.control, &old.sluice.control_group)
        {
            return refuse("SluiceControl");
        }
        if let Some(at) = &new.sluice.needs_dataplane
            && !self.dataplane.is_kernel()
            && !self.options.no_xdp
        {
            return Err(format!(
                "{}:{}: needs the dataplane, and this instance runs without one: restart",
                at.file.display(),
                at.line
            ));
        }
        let mut notices = Vec::new();
        if (&new.user, &new.group) != (&old.user, &old.group) {
            notices.push(
                "User and Group take effect at the next start, or with `sluice upgrade`".to_owned(),
            );
        }
        if self.cpus.shards(new.sluice.shards) != self.pins.len() {
            notices.push(format!(
                "SluiceShards takes effect at the next start, or with `sluice upgrade`; now there are {}",
                count(self.pins.len(), "shard")
            ));
        }
        Ok(notices)
    }
}

fn summary(old: &Spec, new: &Spec, generation: u64, notices: &[String]) -> String {
    let names = |spec: &Spec| -> Vec<(String, String)> {
        spec.balancers
            .iter()
            .flat_map(|b| {
                b.members
                    .iter()
                    .map(|m| (b.name.clone(), m.url.clone()))
                    .collect::<Vec<_>>()
            })
            .collect()
    };
    let (before, after) = (names(old), names(new));
    let added = after.iter().filter(|name| !before.contains(name)).count();
    let removed = before.iter().filter(|name| !after.contains(name)).count();
    let mut text = format!(
        "generation {generation}: {} ({added} added, {removed} removed), {}",
        count(after.len(), "member"),
        count(new.listeners.len(), "listener")
    );
    for notice in notices {
        text.push_str("\nnotice: ");
        text.push_str(notice);
    }
    text
}
