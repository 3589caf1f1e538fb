//! Orders change hands: every one comes back exactly once, whatever the workers do.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kdraw_pipeline::crew::{Desk, Foreman, Nobody, Office, Turn, Worker};
use kdraw_pipeline::ports::{Clock, Crew, Task};
use proptest::prelude::*;

const PATIENCE_US: u64 = 1000;

/// What a number is squared in.
#[derive(Debug, PartialEq)]
struct Paper;

/// Squares a number; even ones need no paper for it.
#[derive(Debug, PartialEq)]
struct Square {
    of: u64,
    paper: Option<Paper>,
    result: Option<u64>,
}

impl Square {
    fn run(&mut self) {
        assert!(self.paper.is_some());
        self.result = Some(self.of * self.of);
    }
}

impl Task for Square {
    type Order = u64;
    type Buffer = Paper;

    fn new(of: u64, paper: Paper) -> Self {
        Self {
            of,
            paper: Some(paper),
            result: None,
        }
    }

    fn unused(&mut self) -> Option<Paper> {
        self.paper.take_if(|_| self.of.is_multiple_of(2))
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

fn foreman<'a>(office: &'a Office<Square>, workers: usize, clock: &'a Hand) -> Foreman<'a, Square> {
    Foreman::new(office, 0..workers, clock, PATIENCE_US, || {})
}

fn all<T>(next: impl FnMut() -> Option<T>) -> Vec<T> {
    core::iter::from_fn(next).collect()
}

#[test]
fn threads_do_every_order_once() {
    const ORDERS: u64 = 20_000;
    let desks = [const { Desk::new() }; 8];
    let (office, clock, over) = (Office::new(&desks), Hand::default(), AtomicBool::new(false));
    let mut seen = vec![0u32; ORDERS as usize];
    let mut papers = 5;
    thread::scope(|scope| {
        for number in 0..3 {
            let (office, over) = (&office, &over);
            scope.spawn(move || {
                let mut worker = Worker::at(office, number);
                while !over.load(Ordering::Relaxed) {
                    if worker.work(Square::run) != Turn::Worked {
                        thread::yield_now();
                    }
                }
            });
        }
        let mut crew = foreman(&office, 3, &clock);
        assert_eq!(crew.workers(), 3);
        let started = Instant::now();
        let (mut next, mut left) = (0, ORDERS);
        while left > 0 && started.elapsed() < Duration::from_secs(60) {
            while papers > 0 && crew.supply(Paper).is_ok() {
                papers -= 1;
            }
            if next < ORDERS && crew.offer(next).is_ok() {
                next += 1;
            }
            if next % 1000 == 999
                && let Some(of) = crew.take_back()
            {
                seen[of as usize] += 1;
                left -= 1;
            }
            while let Some(task) = crew.collect() {
                assert_eq!(task.result, Some(task.of * task.of));
                papers += usize::from(task.paper.is_some());
                seen[task.of as usize] += 1;
                left -= 1;
            }
            assert_eq!(crew.overdue(), None);
            thread::yield_now();
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(seen.iter().all(|&times| times == 1));
}

#[test]
fn orders_are_done_from_the_oldest_on_and_wait_for_paper() {
    let desks = [const { Desk::new() }; 8];
    let (office, clock) = (Office::new(&desks), Hand::default());
    let mut crew = foreman(&office, 1, &clock);
    let mut worker = Worker::at(&office, 0);
    assert_eq!(worker.work(Square::run), Turn::Idle);
    let given = (0..).take_while(|&of| crew.offer(of).is_ok()).count() as u64;
    assert_eq!(given, 8);
    assert_eq!(worker.work(Square::run), Turn::Idle, "there is no paper");
    crew.supply(Paper).unwrap();
    // The same paper does for 0 and 1.
    let turns = [(); 3].map(|()| worker.work(Square::run));
    assert_eq!(turns, [Turn::Worked, Turn::Worked, Turn::Idle]);
    assert_eq!(crew.take_back(), Some(2));
    let done = all(|| crew.collect());
    let done = done.iter().map(|task| (task.of, task.result, &task.paper));
    assert!(done.eq([(0, Some(0), &None), (1, Some(1), &Some(Paper))]));
    assert!(all(|| crew.take_back()).into_iter().eq(3..given));
    assert_eq!(crew.take_back(), None);
}

#[test]
fn a_worker_that_never_answers_is_given_up_and_its_late_answer_ignored() {
    let desks = [const { Desk::new() }; 8];
    let (office, clock) = (Office::new(&desks), Hand::default());
    let mut crew = foreman(&office, 2, &clock);
    let [mut silent, mut good] = [0, 1].map(|number| Worker::at(&office, number));
    for of in 0..4 {
        crew.offer(of).unwrap();
        crew.supply(Paper).unwrap();
    }
    let mut orders = Vec::new();
    let turn = silent.work(|task| {
        // Meanwhile, elsewhere:
        assert_eq!(crew.overdue(), None);
        clock.forward(PATIENCE_US - 1);
        assert_eq!(good.work(Square::run), Turn::Worked);
        assert_eq!(crew.overdue(), None);
        clock.forward(1);
        orders = all(|| crew.overdue());
        task.run();
    });
    assert_eq!((turn, orders), (Turn::Worked, vec![0]));
    assert_eq!(crew.workers(), 1);
    assert_eq!(silent.work(|_| panic!("it was given up")), Turn::Dismissed);
    while good.work(Square::run) == Turn::Worked {}
    let done = all(|| crew.collect()).into_iter().map(|task| task.of);
    assert!(done.eq(1..4));
}

#[test]
fn an_order_is_late_from_when_it_was_seen_begun() {
    let desks = [const { Desk::new() }; 8];
    let (office, clock) = (Office::new(&desks), Hand::default());
    let mut crew = foreman(&office, 1, &clock);
    let mut worker = Worker::at(&office, 0);
    crew.supply(Paper).unwrap();
    // The same desk twice.
    for of in [2, 4] {
        crew.offer(of).unwrap();
        clock.forward(PATIENCE_US);
        assert_eq!(crew.overdue(), None);
        worker.work(|task| {
            assert_eq!(crew.overdue(), None);
            clock.forward(PATIENCE_US - 1);
            assert_eq!(crew.overdue(), None);
            task.run();
        });
        assert_eq!(crew.collect().unwrap().result, Some(of * of));
    }
}

#[test]
fn a_dead_worker_is_given_up_at_once_and_what_it_finished_counts() {
    let desks = [const { Desk::new() }; 8];
    let (office, clock) = (Office::new(&desks), Hand::default());
    let mut crew = foreman(&office, 1, &clock);
    let mut worker = Worker::at(&office, 0);
    for of in 2..5 {
        crew.offer(of).unwrap();
        crew.supply(Paper).unwrap();
    }
    assert_eq!(worker.work(Square::run), Turn::Worked);
    worker.work(|_| {
        office.died(0);
        assert_eq!((crew.overdue(), crew.overdue()), (Some(3), None));
    });
    assert_eq!(crew.collect().unwrap().result, Some(4));
    assert_eq!((crew.collect(), crew.workers()), (None, 0));
    assert_eq!((crew.take_back(), crew.take_back()), (Some(4), None));
    // The one that was left of the first order went with the worker.
    assert_eq!(all(|| crew.spare()).len(), 2);
    assert_eq!((crew.offer(5), crew.supply(Paper)), (Err(5), Err(Paper)));
}

#[test]
fn nobody_takes_nothing() {
    let mut nobody: Box<dyn Crew<Square>> = Box::new(Nobody);
    assert_eq!(
        (nobody.offer(1), nobody.supply(Paper)),
        (Err(1), Err(Paper))
    );
    assert_eq!((nobody.workers(), nobody.spare()), (0, None));
}

/// What may happen next, each to worker `usize`.
#[derive(Clone, Debug)]
enum Step {
    Offer,
    Supply,
    Work(usize),
    /// Begins a task and loses it.
    Vanish(usize),
    Die(usize),
    Collect,
    TakeBack,
    Overdue,
    Forward(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Offer),
        3 => Just(Step::Supply),
        4 => (0..3usize).prop_map(Step::Work),
        1 => (0..3usize).prop_map(Step::Vanish),
        1 => (0..3usize).prop_map(Step::Die),
        4 => Just(Step::Collect),
        1 => Just(Step::TakeBack),
        2 => Just(Step::Overdue),
        2 => (0..PATIENCE_US).prop_map(Step::Forward),
    ]
}

proptest! {
    /// In whatever order things happen, each order comes back once: done, or as it was.
    #[test]
    fn every_order_comes_back_once(steps in prop::collection::vec(step(), 0..200)) {
        let desks = [const { Desk::new() }; 8];
        let (office, clock) = (Office::new(&desks), Hand::default());
        let mut crew = foreman(&office, 3, &clock);
        let mut workers = [0, 1, 2].map(|number| Some(Worker::at(&office, number)));
        let mut back = Vec::new();
        let mut given = 0;
        for step in steps {
            match step {
                Step::Offer => given += u64::from(crew.offer(given).is_ok()),
                Step::Supply => drop(crew.supply(Paper)),
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
                    office.died(who);
                }
                Step::Collect => back.extend(crew.collect().map(|task| {
                    assert_eq!(task.result, Some(task.of * task.of));
                    task.of
                })),
                Step::TakeBack => back.extend(crew.take_back()),
                Step::Overdue => back.extend(crew.overdue()),
                Step::Forward(us) => clock.forward(us),
            }
        }
        // Whatever is begun by now is seen, and then late.
        back.extend(all(|| crew.overdue()));
        clock.forward(PATIENCE_US);
        back.extend(all(|| crew.overdue()));
        back.extend(all(|| crew.take_back()));
        back.extend(all(|| crew.collect()).iter().map(|task| task.of));
        back.sort();
        prop_assert_eq!(back, Vec::from_iter(0..given));
    }
}
