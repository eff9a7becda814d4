//! `?json=1`: what the page's script asks for, and whoever wants numbers without the nonces.

use serde::Serialize;
use serde_json::{Value, json as value};

use super::{BalancerView, Factor, Outcome, View, WorkerView};

/// Everything that changes by itself. Nonces are not in it: it is given to who sends no Referer.
pub fn json(view: &View) -> String {
    let balancers: Vec<Value> = view.balancers.iter().map(one_balancer).collect();
    value!({ "balancers": balancers }).to_string()
}

/// What became of a submission whose answer is wanted as JSON.
pub fn outcome_json(outcome: &Outcome) -> String {
    let (done, message) = match outcome {
        Outcome::Done(message) => (true, message),
        Outcome::Refused(message) => (false, message),
    };
    value!({ "done": done, "message": message }).to_string()
}

fn one_balancer(balancer: &BalancerView) -> Value {
    let mut all = plain(balancer);
    all["workers"] = balancer.workers.iter().map(one_worker).collect();
    all
}

fn one_worker(worker: &WorkerView) -> Value {
    let mut all = plain(worker);
    let (class, words) = worker.in_words();
    all["status"] = worker.status().into();
    all["class"] = class.into();
    all["words"] = words.into();
    all["out"] = worker.is_out().into();
    all["factor"] = Factor(worker.lbfactor).to_string().into();
    all["to"] = super::size(worker.transferred).into();
    all["from"] = super::size(worker.read).into();
    all
}

fn plain(of: &impl Serialize) -> Value {
    // Numbers and strings under names: it cannot fail.
    serde_json::to_value(of).unwrap_or_default()
}
