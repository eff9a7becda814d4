//! A strict reader of Prometheus's text exposition format 0.0.4: what it does not know is a failure.

#![expect(
    clippy::float_cmp,
    reason = "counts are whole numbers, which a float holds exactly"
)]

use std::collections::{BTreeMap, HashMap, HashSet};

/// A page that was read.
pub(crate) struct Page {
    /// Value by name with labels, as written.
    samples: BTreeMap<String, f64>,
    /// Type by family.
    kinds: HashMap<String, String>,
}

impl Page {
    /// Panics where the text breaks a rule of the format.
    pub(crate) fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line has no end");
        let mut page = Self {
            samples: BTreeMap::new(),
            kinds: HashMap::new(),
        };
        let (mut helped, mut current) = (HashSet::new(), String::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect(line);
                assert!(is_name(name) && !help.is_empty(), "{line}");
                assert!(helped.insert(name.to_owned()), "twice: {line}");
                name.clone_into(&mut current);
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect(line);
                assert_eq!(name, current, "TYPE follows its HELP");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert!(kind != "counter" || name.ends_with("_total"), "{line}");
                page.kinds.insert(name.to_owned(), kind.to_owned());
            } else {
                page.sample(line, &current);
            }
        }
        page.check_histograms();
        page
    }

    fn sample(&mut self, line: &str, family: &str) {
        let (key, value) = line.rsplit_once(' ').expect(line);
        let name = key.split('{').next().unwrap_or(key);
        assert!(is_name(name), "{line}");
        let kind = self.kinds.get(family).map_or("", String::as_str);
        let suffix = name.strip_prefix(family).expect("of the family above it");
        let allowed: &[&str] = match kind {
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        assert!(allowed.contains(&suffix), "{line} in {family}");
        if name != key {
            check_labels(&key[name.len()..]);
        }
        let value: f64 = value.parse().expect(line);
        assert!(kind == "gauge" || value >= 0.0, "{line}");
        assert!(
            self.samples.insert(key.to_owned(), value).is_none(),
            "twice: {line}"
        );
    }

    /// Buckets grow with their bounds, the last has all, and the sum fits between the bounds.
    fn check_histograms(&self) {
        let histograms = self.kinds.iter().filter(|(_, kind)| *kind == "histogram");
        for (family, _) in histograms {
            let mut of: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
            for (key, value) in &self.samples {
                let Some(labels) = key.strip_prefix(&format!("{family}_bucket{{")) else {
                    continue;
                };
                let (others, bound) = labels.split_once(",le=\"").expect("le is last");
                let bound = bound.strip_suffix("\"}").expect("the label's end");
                let bound = bound.replace("+Inf", "inf").parse().expect("a number");
                of.entry(others.to_owned())
                    .or_default()
                    .push((bound, *value));
            }
            for (labels, mut buckets) in of {
                buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
                assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1));
                let last = buckets.last().expect("not empty");
                assert!(last.0.is_infinite());
                let key = |suffix: &str| format!("{family}_{suffix}{{{labels}}}");
                assert_eq!(last.1, self.samples[&key("count")]);
                let mut floor = (0.0, 0.0);
                let mut least = 0.0;
                for (bound, count) in &buckets {
                    least += (count - floor.1) * floor.0;
                    floor = (*bound, *count);
                }
                assert!(self.samples[&key("sum")] >= least, "{family} {labels}");
            }
        }
    }

    /// A sample's value; 0 where there is none.
    pub(crate) fn value(&self, key: &str) -> f64 {
        self.samples.get(key).copied().unwrap_or(0.0)
    }

    /// Every counter (buckets included) that is less here than it was before.
    pub(crate) fn went_backwards(&self, before: &Self) -> Vec<String> {
        let is_counter = |key: &str| {
            let name = key.split('{').next().unwrap_or(key);
            let base = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix))
                .unwrap_or(name);
            name.ends_with("_total") || self.kinds.get(base).is_some_and(|k| k == "histogram")
        };
        let earlier = before.samples.iter().filter(|(key, _)| is_counter(key));
        earlier
            .filter(|(key, value)| self.value(key) < **value)
            .map(|(key, value)| format!("{key}: {value}, then {}", self.value(key)))
            .collect()
    }

    pub(crate) fn families(&self) -> HashSet<&str> {
        self.kinds.keys().map(String::as_str).collect()
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// `{name="value",...}` with the three escapes and no others.
fn check_labels(text: &str) {
    let mut rest = text.strip_prefix('{').expect(text);
    loop {
        let (name, value) = rest.split_once("=\"").expect(text);
        assert!(is_name(name), "{text}");
        let mut chars = value.char_indices();
        let end = loop {
            match chars.next().expect(text) {
                (_, '\\') => {
                    let escaped = chars.next().expect(text).1;
                    assert!(matches!(escaped, '\\' | '"' | 'n'), "{text}");
                }
                (at, '"') => break at,
                _ => {}
            }
        };
        rest = &value[end + 1..];
        if rest == "}" {
            return;
        }
        rest = rest.strip_prefix(',').expect(text);
    }
}
