//! Splits a batch into chunks of bounded weight, so that the memory of a statement does not grow with the batch. Pure.

/// Splits the items into consecutive chunks of at most `max_weight`. A heavier item is a chunk of its own.
#[must_use]
pub fn split_by_weight<T>(items: &[T], max_weight: usize, weight: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let mut chunks = Vec::new();
    let (mut start, mut total) = (0, 0_usize);
    for (index, item) in items.iter().enumerate() {
        let weight = weight(item);
        if index > start && total.saturating_add(weight) > max_weight {
            chunks.push(&items[start..index]);
            (start, total) = (index, 0);
        }
        total = total.saturating_add(weight);
    }
    if start < items.len() {
        chunks.push(&items[start..]);
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_ends_before_the_item_that_would_exceed_the_weight() {
        let split = |items: &[usize]| -> Vec<Vec<usize>> {
            let chunks = split_by_weight(items, 10, |weight| *weight);
            chunks.into_iter().map(<[usize]>::to_vec).collect()
        };
        assert_eq!(split(&[]), Vec::<Vec<usize>>::new());
        assert_eq!(split(&[4, 6, 1]), [vec![4, 6], vec![1]]);
        assert_eq!(split(&[4, 7]), [vec![4], vec![7]]);
        assert_eq!(split(&[30, 1, 30]), [vec![30], vec![1], vec![30]]);
        assert_eq!(split(&[1, usize::MAX, 1]), [vec![1], vec![usize::MAX], vec![1]]);
        assert_eq!(split(&[0, 0, 10, 0]), [vec![0, 0, 10, 0]]);
    }
}
