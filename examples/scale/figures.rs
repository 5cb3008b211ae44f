//! Figures as they are printed: the median, and from where to where it went.

/// Values of one kind, a round each.
#[derive(Clone, Debug, Default)]
pub struct Figures(pub Vec<f64>);

impl Figures {
    pub fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => f64::NAN,
            odd if odd % 2 == 1 => sorted[odd / 2],
            even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
        }
    }

    /// Round by round, these against those.
    pub fn against(&self, those: &Self) -> Self {
        Self(self.0.iter().zip(&those.0).map(|(this, that)| this / that).collect())
    }

    /// `median 9,120 (8,700 to 9,400)`, with as many digits behind the point.
    pub fn told(&self, digits: usize) -> String {
        let (low, high) =
            (self.0.iter().copied().fold(f64::MAX, f64::min), self.0.iter().copied().fold(f64::MIN, f64::max));
        format!("median {:.digits$} ({low:.digits$} to {high:.digits$})", self.median())
    }
}

/// One line: what it is, what was seen, what is wanted.
pub fn line(what: &str, seen: &str, goal: &str) {
    let goal = if goal.is_empty() { String::new() } else { format!("; goal: {goal}") };
    println!("  {what:<58} {seen}{goal}");
}
