//! The diagnosis of any log.

use kdraw_kernel::diagnosis::Diagnosis;

/// The input is the text of a log. Who sees the diagnosis sees no line break in it.
pub(crate) fn diagnosis(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let diagnosis = Diagnosis::of_log(&text);
    let again = Diagnosis::of_log(&text);
    assert_eq!(format!("{diagnosis:?}"), format!("{again:?}"));
}
