//! Decoders that others wrote may panic over a damaged file; to a user that is one more file that cannot be read.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Once;

use crate::error::{Error, Result};

thread_local! {
    /// Whether this thread is inside a decoder, whose panic is told as an error and not on stderr.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

static HOOK: Once = Once::new();

/// What `decode` makes of the file at `path`.
///
/// # Errors
/// That of `decode`; [`Error::File`] if it panics.
pub(super) fn guarded<T>(path: &Path, decode: impl FnOnce() -> Result<T>) -> Result<T> {
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !INSIDE.try_with(Cell::get).unwrap_or(false) {
                before(info);
            }
        }));
    });
    let outer = INSIDE.replace(true);
    // What a decoder has half done is dropped with it: `decode` owns its buffers.
    let result = catch_unwind(AssertUnwindSafe(decode));
    INSIDE.set(outer);
    result.unwrap_or_else(|_| Err(Error::file(path, "cannot be decoded (the decoder broke off); get it again or convert it")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_the_name_of_the_file() {
        let error = guarded::<()>(Path::new("x.jpg"), || panic!("inside a decoder")).unwrap_err().to_string();
        assert_eq!(error, "x.jpg: cannot be decoded (the decoder broke off); get it again or convert it");
        assert_eq!(guarded(Path::new("x.jpg"), || Ok(7)).unwrap(), 7);
        assert!(!INSIDE.get());
    }
}
