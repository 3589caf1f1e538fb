//! Work that all CPUs share, in order.

use std::sync::mpsc::sync_channel;
use std::thread;

/// How many threads to work with.
pub fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Does `work` on every item, on all CPUs, and hands the results to `take` in the order of the
/// items; at most a few per CPU are held at once. `tools` makes what each CPU works with. The
/// first error of `take` ends it.
///
/// # Errors
/// What `take` failed with.
pub fn in_order<T, S, R, E>(
    items: &[T],
    tools: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &T) -> R + Sync,
    mut take: impl FnMut(R) -> Result<(), E>,
) -> Result<(), E>
where
    T: Sync,
    R: Send,
{
    let threads = threads().min(items.len());
    thread::scope(|scope| {
        // Worker n does items n, n + threads, …: who waits for an item knows whose it is.
        let results: Vec<_> = (0..threads)
            .map(|first| {
                let (send, receive) = sync_channel(2);
                let (tools, work) = (&tools, &work);
                scope.spawn(move || {
                    let mut tools = tools();
                    for item in items.iter().skip(first).step_by(threads) {
                        if send.send(work(&mut tools, item)).is_err() {
                            return; // nobody waits any more
                        }
                    }
                });
                receive
            })
            .collect();
        let mut turns = results.iter().cycle();
        for _ in items {
            // A worker ends early only if it panicked, which the scope then passes on.
            let Some(Ok(result)) = turns.next().map(|worker| worker.recv()) else {
                break;
            };
            take(result)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_an_error_ends_the_work() {
        let items: Vec<u64> = (0..1000).collect();
        let mut taken = Vec::new();
        let done: Result<(), ()> = in_order(
            &items,
            || 2,
            |factor, item| item * *factor,
            |result| {
                taken.push(result);
                Ok(())
            },
        );
        assert_eq!(done, Ok(()));
        assert!(taken.iter().copied().eq((0..1000).map(|item| item * 2)));
        let stopped = in_order(
            &items,
            || (),
            |(), item| *item,
            |result| if result == 7 { Err(result) } else { Ok(()) },
        );
        assert_eq!(stopped, Err(7));
        assert_eq!(in_order(&[], || (), |(), (): &()| (), Err), Ok(()));
    }
}
