#![no_std]
#![forbid(unsafe_code)]
//! The dump format and the plan.

pub mod addr;
