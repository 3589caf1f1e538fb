//! Real dumps, and what the commands that look at them print: the transcripts in `dumps/`.
//!
//! A dump of a whole machine is too large to be kept; these are cut. After a change that is meant,
//! `TRYCMD=overwrite cargo test -p kdraw --test transcripts` writes the transcripts anew.

#[test]
fn commands_print_what_they_owe_over_real_dumps() {
    trycmd::TestCases::new().case("tests/dumps/*.trycmd");
}
