//! Tasks change hands: every one comes back exactly once, whatever the workers do.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kdraw_pipeline::crew::{Foreman, Nobody, Worker, Workplace};
use kdraw_pipeline::ports::{Clock, Crew, Task};
use proptest::prelude::*;

const PATIENCE_US: u64 = 1000;

/// Squares a number.
#[derive(Debug, PartialEq)]
struct Square {
    of: u64,
    result: Option<u64>,
}

impl Square {
    fn new(of: u64) -> Self {
        Self { of, result: None }
    }

    fn run(&mut self) {
        self.result = Some(self.of * self.of);
    }
}

impl Task for Square {
    type Order = u64;

    fn order(&self) -> u64 {
        self.of
    }
}

/// A clock that is set by hand.
#[derive(Default)]
struct Hand(AtomicU64);

impl Hand {
    fn forward(&self, us: u64) {
        self.0.fetch_add(us, Ordering::Relaxed);
    }
}

impl Clock for Hand {
    fn now_us(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

fn foreman<'a>(places: &'a [Workplace<Square>], clock: &'a Hand) -> Foreman<'a, Square> {
    Foreman::new(places, clock, PATIENCE_US, || {})
}

#[test]
fn threads_do_every_task_once() {
    const TASKS: u64 = 20_000;
    let places = [const { Workplace::new() }; 3];
    let (clock, over) = (Hand::default(), AtomicBool::new(false));
    let mut seen = vec![0u32; TASKS as usize];
    thread::scope(|scope| {
        for place in &places {
            scope.spawn(|| {
                let mut worker = Worker::at(place);
                while !over.load(Ordering::Relaxed) {
                    if !worker.work(Square::run) {
                        thread::yield_now();
                    }
                }
            });
        }
        let mut crew = foreman(&places, &clock);
        assert_eq!(crew.workers(), 3);
        let mut waiting = (0..TASKS).map(Square::new).collect::<Vec<_>>();
        let started = Instant::now();
        let mut left = TASKS;
        while left > 0 && started.elapsed() < Duration::from_secs(60) {
            if let Some(task) = waiting.pop()
                && let Err(task) = crew.offer(task)
            {
                waiting.push(task);
                thread::yield_now();
            }
            while let Some(task) = crew.collect() {
                assert_eq!(task.result, Some(task.of * task.of));
                seen[task.of as usize] += 1;
                left -= 1;
            }
            assert_eq!(crew.overdue(), None);
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(seen.iter().all(|&times| times == 1));
}

#[test]
fn a_worker_that_never_answers_is_given_up_and_its_late_answer_ignored() {
    let places = [const { Workplace::new() }; 2];
    let clock = Hand::default();
    let mut crew = foreman(&places, &clock);
    let mut good = Worker::at(&places[1]);
    for of in 0..4 {
        crew.offer(Square::new(of)).unwrap();
    }
    assert_eq!(crew.offer(Square::new(4)), Err(Square::new(4)));
    while good.work(Square::run) {}
    clock.forward(PATIENCE_US);
    let mut silent = Worker::at(&places[0]);
    let mut orders = Vec::new();
    assert!(silent.work(|task| {
        // Meanwhile, on the first CPU:
        orders.extend(core::iter::from_fn(|| crew.overdue()));
        task.run();
    }));
    orders.sort();
    // The two were spread over both workers in turn.
    assert_eq!(orders, [0, 2]);
    assert_eq!(crew.workers(), 1);
    let mut done = Vec::from_iter(core::iter::from_fn(|| crew.collect()).map(|task| task.of));
    done.sort();
    assert_eq!(done, [1, 3]);
    // What it left is neither collected nor done again, and it gets nothing any more.
    assert!(!silent.work(|_| panic!("an abandoned task was begun")));
    for of in 5..7 {
        crew.offer(Square::new(of)).unwrap();
    }
    assert!(crew.offer(Square::new(7)).is_err());
    assert!(!silent.work(|_| panic!("a task for a worker that was given up")));
}

#[test]
fn a_dead_worker_is_given_up_at_once_and_what_it_finished_counts() {
    let places = [const { Workplace::new() }];
    let clock = Hand::default();
    let mut crew = foreman(&places, &clock);
    crew.offer(Square::new(2)).unwrap();
    crew.offer(Square::new(3)).unwrap();
    let mut worker = Worker::at(&places[0]);
    assert!(worker.work(Square::run));
    places[0].died();
    assert_eq!(crew.overdue(), Some(3));
    assert_eq!(crew.overdue(), None);
    assert_eq!(crew.collect().unwrap().result, Some(4));
    assert_eq!((crew.collect(), crew.workers()), (None, 0));
    assert!(crew.offer(Square::new(5)).is_err());
}

#[test]
fn a_task_that_waits_for_another_is_not_late() {
    let places = [const { Workplace::new() }];
    let clock = Hand::default();
    let mut crew = foreman(&places, &clock);
    let mut worker = Worker::at(&places[0]);
    crew.offer(Square::new(1)).unwrap();
    crew.offer(Square::new(2)).unwrap();
    clock.forward(PATIENCE_US - 1);
    assert!(worker.work(Square::run));
    assert_eq!(crew.collect().unwrap().of, 1);
    clock.forward(PATIENCE_US - 1);
    assert_eq!(crew.overdue(), None);
    clock.forward(1);
    assert_eq!(crew.overdue(), Some(2));
}

#[test]
fn neither_desk_starves() {
    let places = [const { Workplace::new() }];
    let clock = Hand::default();
    let mut crew = foreman(&places, &clock);
    let mut worker = Worker::at(&places[0]);
    crew.offer(Square::new(0)).unwrap();
    for of in 1..10 {
        crew.offer(Square::new(of)).unwrap();
        assert!(worker.work(Square::run));
        assert_eq!(crew.collect().unwrap().of, of - 1);
    }
}

#[test]
fn nobody_takes_nothing() {
    assert_eq!(Nobody.offer(Square::new(1)), Err(Square::new(1)));
    assert_eq!(Crew::<Square>::workers(&Nobody), 0);
}

/// What may happen next, each to worker `usize`.
#[derive(Clone, Debug)]
enum Step {
    Offer,
    Work(usize),
    /// Begins a task and loses it.
    Vanish(usize),
    Die(usize),
    Collect,
    Overdue,
    Forward(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Offer),
        4 => (0..3usize).prop_map(Step::Work),
        1 => (0..3usize).prop_map(Step::Vanish),
        1 => (0..3usize).prop_map(Step::Die),
        4 => Just(Step::Collect),
        2 => Just(Step::Overdue),
        2 => (0..PATIENCE_US).prop_map(Step::Forward),
    ]
}

proptest! {
    /// In whatever order things happen, each task comes back once: done, or as its order.
    #[test]
    fn every_task_comes_back_once(steps in prop::collection::vec(step(), 0..200)) {
        let places = [const { Workplace::new() }; 3];
        let clock = Hand::default();
        let mut crew = foreman(&places, &clock);
        let mut workers: Vec<_> = places.iter().map(|place| Some(Worker::at(place))).collect();
        let mut back = Vec::new();
        let mut given = 0;
        let steps = steps.into_iter().chain([Step::Forward(PATIENCE_US)]);
        for step in steps {
            match step {
                Step::Offer => given += u64::from(crew.offer(Square::new(given)).is_ok()),
                Step::Work(who) => {
                    if let Some(worker) = &mut workers[who] {
                        worker.work(Square::run);
                    }
                }
                Step::Vanish(who) => {
                    if let Some(mut worker) = workers[who].take() {
                        // An unwinding worker stands for one that never comes back.
                        let gone = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                            worker.work(|_| std::panic::resume_unwind(Box::new(())))
                        }));
                        if gone.is_ok() {
                            workers[who] = Some(worker);
                        }
                    }
                }
                Step::Die(who) => {
                    workers[who] = None;
                    places[who].died();
                }
                Step::Collect => back.extend(crew.collect().map(|task| {
                    assert_eq!(task.result, Some(task.of * task.of));
                    task.of
                })),
                Step::Overdue => back.extend(crew.overdue()),
                Step::Forward(us) => clock.forward(us),
            }
        }
        back.extend(core::iter::from_fn(|| crew.overdue()));
        back.extend(core::iter::from_fn(|| crew.collect()).map(|task| task.of));
        back.sort();
        prop_assert_eq!(back, Vec::from_iter(0..given));
    }
}
