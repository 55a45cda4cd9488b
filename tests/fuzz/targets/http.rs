//! Any bytes on the control socket, in any parts.

#![no_main]

use api::limits::{MAX_BODY, MAX_HEAD};
use api::parser::{Parsed, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    // Requests one after the other, as the server takes them.
    loop {
        match parse(rest) {
            Parsed::Whole(request, used) => {
                assert!(used > 0 && used <= rest.len());
                assert!(request.body.len() <= MAX_BODY);
                assert!(used <= 2 * MAX_HEAD + MAX_BODY + 2 * MAX_HEAD);
                assert!(!request.path.contains('?'));
                // The same bytes are the same request, whatever comes after them, and none of it
                // is one before all have arrived.
                let (whole, part) = (&rest[..used], &rest[..used - 1]);
                assert_eq!(parse(whole), Parsed::Whole(request.clone(), used));
                assert!(matches!(parse(part), Parsed::Partial { .. }), "{part:?}");
                let _ = request.parameter("since");
                rest = &rest[used..];
            }
            Parsed::Partial { .. } => return,
            Parsed::Bad(response) => {
                // More bytes do not make it good.
                assert!(response.status.code() >= 400);
                let more = [rest, b"\r\n\r\n"].concat();
                assert!(matches!(parse(&more), Parsed::Bad(_)));
                return;
            }
        }
    }
});
