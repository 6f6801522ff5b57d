//! What someone meant who wrote a word that is no command.

/// More letters than this make another word.
const DISTANCE_MAX: usize = 2;

/// The name that a word resembles most, if it resembles one.
pub(crate) fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = names.map(|name| (distance(word, name), name));
    let near = near.filter(|(letters, name)| *letters <= DISTANCE_MAX && *letters < name.len() / 2);
    near.min().map(|(_, name)| name)
}

/// How many letters must be written, left out or changed to make one word the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    // Of what has been read of `one`: the distance from each beginning of `other`.
    let mut distances: Vec<usize> = (0..=other.len()).collect();
    for (row, letter) in one.chars().enumerate() {
        let mut diagonal = row;
        distances[0] = row + 1;
        for (column, another) in other.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *another);
            diagonal = distances[column + 1];
            distances[column + 1] = changed.min(diagonal + 1).min(distances[column] + 1);
        }
    }
    distances[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_too_few_too_many_or_another_is_near() {
        for word in ["serch", "searchh", "saerch", "search"] {
            assert_eq!(nearest(word, ["run", "search", "merge"].into_iter()), Some("search"));
        }
    }

    #[test]
    fn another_word_is_not_near() {
        for word in ["localhost", "sun", "se", ""] {
            assert_eq!(nearest(word, ["run", "search", "merge", "ab"].into_iter()), None, "{word}");
        }
    }

    #[test]
    fn letters_that_differ_are_counted() {
        for (one, other, letters) in
            [("", "", 0), ("abc", "", 3), ("", "ab", 2), ("kitten", "sitting", 3)]
        {
            assert_eq!(distance(one, other), letters);
        }
    }
}
