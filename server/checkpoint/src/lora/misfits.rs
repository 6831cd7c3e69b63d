//! Keys that do not fit, counted and the first of them named.

/// How many are named.
const NAMED: usize = 3;

/// What is wrong with a file's keys.
pub(crate) struct Misfits {
    /// All of the file's.
    keys: usize,
    misfits: usize,
    named: Vec<String>,
    others: usize,
}

impl Misfits {
    pub(crate) const fn new(keys: usize) -> Self {
        Self {
            keys,
            misfits: 0,
            named: Vec::new(),
            others: 0,
        }
    }

    /// `keys` keys of that name do not fit.
    pub(crate) fn add(&mut self, keys: usize, name: &str, reason: &str) {
        self.misfits += keys;
        if self.named.len() < NAMED {
            self.named.push(format!("{name:?} ({reason})"));
        } else {
            self.others += 1;
        }
    }

    /// None when every key fits and there is one.
    pub(crate) fn problem(&self) -> Option<String> {
        if self.keys == 0 {
            return Some("the file has no keys".to_owned());
        }
        if self.misfits == 0 {
            return None;
        }
        let count = match self.misfits {
            all if all == self.keys => format!("none of its {all} keys fits"),
            some => format!("{some} of its {} keys do not fit", self.keys),
        };
        let others = match self.others {
            0 => String::new(),
            others => format!(" and {others} more"),
        };
        let named = self.named.join(", ");
        Some(format!("{count} the transformer: {named}{others}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_misfits_are_named_and_all_are_counted() {
        let mut misfits = Misfits::new(12);
        assert_eq!(misfits.problem(), None);
        misfits.add(2, "a", "x");
        let problem = misfits.problem().unwrap();
        assert_eq!(
            problem,
            "2 of its 12 keys do not fit the transformer: \"a\" (x)"
        );
        for name in ["b", "c", "d", "e"] {
            misfits.add(2, name, "y");
        }
        let problem = misfits.problem().unwrap();
        assert_eq!(
            problem,
            "10 of its 12 keys do not fit the transformer: \"a\" (x), \"b\" (y), \"c\" (y) and 2 more"
        );
        misfits.add(2, "f", "z");
        assert!(
            misfits
                .problem()
                .unwrap()
                .starts_with("none of its 12 keys fits")
        );
        assert!(Misfits::new(0).problem().is_some());
    }
}
