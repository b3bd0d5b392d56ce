//! The derives: what compiles, and what the compiler says of what does not.

#[test]
fn derives_accept_and_refuse_with_the_messages_on_file() {
    let cases = trybuild::TestCases::new();
    cases.pass("macros/ui/pass/*.rs");
    cases.compile_fail("macros/ui/fail/*.rs");
}
