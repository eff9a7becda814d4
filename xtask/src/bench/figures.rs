//! What a row of rounds comes to: medians and quartiles, never means (one slow round is the
//! machine's, not the program's).

use serde_json::{Value, json};

/// Rounds of one thing, in ascending order; never empty.
#[derive(Clone, Debug)]
pub(super) struct Spread(Vec<f64>);

impl Spread {
    /// `None` of no rounds.
    pub(super) fn new(mut rounds: Vec<f64>) -> Option<Self> {
        rounds.sort_by(f64::total_cmp);
        (!rounds.is_empty()).then_some(Self(rounds))
    }

    /// The value below which a share of the rounds lies, 0.0..=1.0, between two by proportion.
    pub(super) fn at(&self, share: f64) -> f64 {
        let place = share * (self.0.len() - 1) as f64;
        let (below, above) = (self.0[index(place.floor())], self.0[index(place.ceil())]);
        below + (above - below) * place.fract()
    }

    pub(super) fn median(&self) -> f64 {
        self.at(0.5)
    }

    pub(super) fn least(&self) -> f64 {
        self.at(0.0)
    }

    pub(super) fn most(&self) -> f64 {
        self.at(1.0)
    }

    /// `1.04 [0.98-1.11]`: median and quartiles.
    pub(super) fn quartiles(&self, digits: usize) -> String {
        format!(
            "{:.digits$} [{:.digits$}-{:.digits$}]",
            self.median(),
            self.at(0.25),
            self.at(0.75)
        )
    }

    /// `58 (53..75)`: median, least and most.
    pub(super) fn range(&self, digits: usize) -> String {
        format!(
            "{:.digits$} ({:.digits$}..{:.digits$})",
            self.median(),
            self.least(),
            self.most()
        )
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "median": self.median(), "q1": self.at(0.25), "q3": self.at(0.75),
            "least": self.least(), "most": self.most(), "rounds": self.0.len(),
        })
    }
}

/// A place in a list, which is never below 0.
#[expect(clippy::cast_sign_loss, reason = "shares of a length are not negative")]
pub(super) fn index(place: f64) -> usize {
    place as usize
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn quartiles_lie_between_rounds_by_proportion() {
        let spread = Spread::new(vec![4.0, 1.0, 2.0, 3.0]).expect("rounds");
        assert_eq!(spread.quartiles(2), "2.50 [1.75-3.25]");
        assert_eq!(spread.range(0), "2 (1..4)");
    }

    #[test]
    fn no_rounds_are_no_figure() {
        assert!(Spread::new(Vec::new()).is_none());
    }
}
