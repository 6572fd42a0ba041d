//! `shadow`, and the kernel's table of who gets the traffic.

use super::story::{Story, check};

#[test]
fn a_specific_address_takes_from_a_wildcard() {
    check(
        "proc A
         proc B
         proc C
         bind A a tcp 0.0.0.0:80 rp
         listen a
         bind B b tcp 127.0.0.1:80 rp
         listen b
         @1100 bind C c tcp 127.0.0.2:80
         close b",
        "shadow tcp 127.0.0.1:80 A[a listen] B[b closed] -> B 95ms",
    );
}

#[test]
fn one_finding_for_each_pair_of_endpoints() {
    check(
        "proc A
         proc B
         proc C
         bind A a udp 0.0.0.0:80 rp
         bind B b udp 127.0.0.1:80 rp
         bind B c udp 127.0.0.1:80 rp
         bind C d udp 127.0.0.2:80 rp",
        "shadow udp 127.0.0.1:80 live A[a bound] B[b,c bound] -> B 2ms
         shadow udp 127.0.0.2:80 live A[a bound] C[d bound] -> C 0ms",
    );
}

#[test]
fn dual_stack_beside_ipv4() {
    check(
        "proc A
         proc B
         bind A a tcp [::]:80 rp
         listen a
         bind B b tcp 0.0.0.0:80 rp
         listen b",
        "shadow tcp 0.0.0.0:80 live A[a listen] B[b listen] -> B 1ms",
    );
}

#[test]
fn who_does_not_listen_takes_nothing() {
    check(
        "proc A
         proc B
         bind A a tcp 0.0.0.0:80 rp
         listen a
         bind B b tcp 127.0.0.1:80 rp",
        "shadow tcp 127.0.0.1:80 live A[a listen] B[b bound] -> A 0ms",
    );
    check(
        "proc A
         proc B
         bind A a tcp 0.0.0.0:80 ra
         bind B b tcp 127.0.0.1:80 ra
         listen a",
        "",
    );
}

#[test]
fn related_processes_do_not_shadow() {
    check(
        "proc A
         fork B of=A
         bind A a udp 0.0.0.0:80 rp
         bind B b udp 127.0.0.1:80 rp",
        "",
    );
}

#[test]
fn between_wildcards_of_ipv6_time_decides() {
    let pair = |first: &str, second: &str, options: &str| {
        format!(
            "proc A
             proc B
             bind A a {first} {options}
             bind B b {second} {options}"
        )
    };
    let tcp = pair("tcp [::]:80", "tcp [::]:80 v6only", "rp");
    let listen = |first: &str, second: &str| format!("{tcp}\nlisten {first}\nlisten {second}");
    check(&listen("a", "b"), "shadow tcp [::]:80 live A[a listen] B[b listen] -> A 2ms");
    check(&listen("b", "a"), "shadow tcp [::]:80 live A[a listen] B[b listen] -> B 2ms");
    let udp = |options| pair("udp [::]:80 v6only", "udp [::]:80", options);
    check(&udp("rp"), "shadow udp [::]:80 live A[a bound] B[b bound] -> A 0ms");
    check(&udp("ra"), "shadow udp [::]:80 live A[a bound] B[b bound] -> B 0ms");
}

/// v4spec, v4any, v6spec, v6dual, v6only, mapped: what they are as text.
const ADDRESSES: [&str; 6] =
    ["127.0.0.1:80", "0.0.0.0:80", "[::1]:80", "[::]:80", "[::]:80 v6only", "[::ffff:127.0.0.1]:80"];

/// Rows are the first binder, columns the second: what both live sockets make, measured on 5.10, 6.1, 6.12, 6.18, 7.2.
/// `-` nothing, `=` co-bind; of shadows who gets what both want: A, B; `t` goes by time, `p` by family (co-bind).
const TABLE: [&str; 6] = ["=A-A-p", "B=-A-B", "--=AA-", "BBB=tB", "--Bt=-", "pA-A-="];

/// The whole table for one protocol and option; `by_time` is the winner where time decides, `equals` among equals.
fn whole_table(protocol: &str, option: &str, by_time: &str, equals: &str) {
    let listens = protocol == "tcp";
    for (row, cells) in TABLE.iter().enumerate() {
        for (column, cell) in cells.chars().enumerate() {
            let mut told = Story::new(super::super::Settings::default());
            let listen = if listens { ["listen a", "listen b"] } else { ["", ""] };
            told.tell(&format!(
                "proc A
                 proc B
                 bind A a {protocol} {} {option}
                 {}
                 bind B b {protocol} {} {option}
                 {}",
                ADDRESSES[row], listen[0], ADDRESSES[column], listen[1]
            ));
            let found = told.findings();
            let (kind, winner) = match cell {
                '-' => {
                    assert!(found.is_empty(), "{row},{column}: {found:?}");
                    continue;
                }
                '=' => ("co-bind", equals),
                // AF_INET before its v4-mapped twin.
                'p' => ("co-bind", if row == 0 { "A" } else { "B" }),
                'A' => ("shadow", "A"),
                'B' => ("shadow", "B"),
                _ => ("shadow", by_time),
            };
            assert_eq!(found.len(), 1, "{row},{column}: {found:?}");
            assert!(found[0].starts_with(kind), "{row},{column}: {found:?}");
            assert!(found[0].contains(&format!(" -> {winner} ")), "{row},{column}: {found:?}");
        }
    }
}

#[test]
fn all_pairs_of_addresses_are_as_the_kernel_treats_them() {
    whole_table("tcp", "rp", "A", "split");
    whole_table("udp", "rp", "A", "split");
    whole_table("udp", "ra", "B", "B");
}
