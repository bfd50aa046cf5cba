//! "Did you mean": the name that was probably meant.

/// Names longer than this are not typing mistakes, and comparing them is quadratic.
const LENGTH_MAX: usize = 64;

/// The candidate that `word` most probably was meant to be, if any is close enough.
///
/// Upper case, hyphens and underscores are as good as equal; otherwise about one character in three may be wrong.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = normal(word)?;
    // Of one or two letters any other name is as close: host names are often that short.
    let length = word.chars().count();
    let limit = if length < 3 { 0 } else { length / 3 };
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let other = normal(candidate)?;
            let distance = strsim::osa_distance(&word, &other);
            let prefix =
                word.len() >= 3 && (other.starts_with(&word) || word.starts_with(&other) && other.len() >= 3);
            (distance <= limit || prefix).then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The hint for a misspelt name: `did you mean ...?` when a candidate is close.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    closest(word, candidates).map(|candidate| format!("did you mean `{candidate}`?"))
}

fn normal(word: &str) -> Option<String> {
    (!word.is_empty() && word.len() <= LENGTH_MAX).then(|| word.to_lowercase().replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_names_are_found_and_far_ones_are_not() {
        let keys = ["cpus", "memory", "disk", "max_connections", "shared_buffers"];
        for (word, expected) in [
            ("memry", Some("memory")),
            ("Memory", Some("memory")),
            ("mem", Some("memory")),
            ("cpu", Some("cpus")),
            ("max-connections", Some("max_connections")),
            ("max_conections", Some("max_connections")),
            ("shared_bufers", Some("shared_buffers")),
            ("flavour", None),
            ("", None),
            ("d", None),
            ("ds", None),
            ("Cpus", Some("cpus")),
        ] {
            assert_eq!(closest(word, keys), expected, "{word}");
        }
        assert_eq!(closest(&"m".repeat(100_000), keys), None);
    }
}
