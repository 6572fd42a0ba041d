//! Sockets in nobody's hands: in a message that nobody received yet, or with io_uring only.

use super::story::check;

#[test]
fn a_socket_in_flight_outweighs_time_wait() {
    check(
        "proc V
         found a tcp 127.0.0.1:80 close
         refuse V v tcp 127.0.0.1:80 as=f
         row f x tcp 127.0.0.1:80 time-wait",
        "refused tcp 127.0.0.1:80 victim=V bound",
    );
}

/// Nobody had it when it was looked for: whoever is left of those that had it before has not got it back.
#[test]
fn a_socket_in_flight_is_nobodys_when_one_of_its_last_holders_ends() {
    check(
        "proc A
         proc V
         bind A a tcp 127.0.0.1:80
         fork B of=A
         fork C of=A
         holders a A,B,C
         holders a
         exit C
         refuse V v tcp 127.0.0.1:80 as=f
         row f a tcp 127.0.0.1:80 close",
        "refused tcp 127.0.0.1:80 victim=V bound last=A[a closed]",
    );
}
