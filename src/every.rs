//! The same for several hosts at once, each in a thread of its own.

use std::thread;

/// Does `work` for every item at once; the results are in the order of the items. A panic is the failure of that item.
pub fn every<T, R, E>(
    items: impl IntoIterator<Item = T>,
    work: impl Fn(T) -> Result<R, E> + Sync,
) -> Vec<Result<R, E>>
where
    T: Send,
    R: Send,
    E: Send + From<anyhow::Error>,
{
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = items.into_iter().map(|item| scope.spawn(move || work(item))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<R, E>>| {
            thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("its thread panicked").into()))
        };
        threads.into_iter().map(join).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_a_panic_is_the_failure_of_its_item() {
        let half = |number: u32| match number {
            0 => panic!("as this test wants"),
            odd if odd % 2 == 1 => Err(anyhow::anyhow!("{odd} is odd")),
            even => Ok(even / 2),
        };
        let results = every([4, 3, 0, 2], half).into_iter().map(|result| result.map_err(|e| e.to_string()));
        let expected = [Ok(2), Err("3 is odd".to_owned()), Err("its thread panicked".to_owned()), Ok(1)];
        assert_eq!(results.collect::<Vec<_>>(), expected);
    }
}
