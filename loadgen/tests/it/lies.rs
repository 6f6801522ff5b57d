//! Servers that send wrong bytes: each lie is noticed, named, and is the end of its connection.

use std::{
    io::Write,
    net::SocketAddr,
    sync::{Arc, Condvar, Mutex},
};

use loadgen::{Mismatch, Plan, Verdict};

use crate::servers::{self, plan, read_frame, run};

/// Runs 200 requests and expects wrong replies of this class only.
#[track_caller]
fn is_caught(server: SocketAddr, load: Plan, class: Mismatch) {
    let report = run(&load);
    let mismatches = report.counts.mismatches;
    assert!(mismatches.of(class) > 0, "{server}: {report:?}");
    assert_eq!(mismatches.of(class), mismatches.total(), "{report:?}");
    assert_eq!(report.verdict, Verdict::Mismatch);
    assert_eq!(report.verdict.exit_code(), 4);
    assert_eq!(report.counts.sent(), 200);
}

/// Tells one lie: the tenth reply on the first connection.
fn lying_once(lie: impl Fn(Vec<u8>) -> Vec<u8> + Send + Sync + 'static) -> SocketAddr {
    servers::replying(move |connection, number, frame| match (connection, number) {
        (0, 9) => lie(frame),
        _ => frame,
    })
}

#[test]
fn one_flipped_bit_is_flipped_wherever_it_is() {
    for position in [4, 11, 12, 40, 67] {
        for pipeline in [1, 16] {
            let server = lying_once(move |mut frame| {
                frame[position] ^= 0x04;
                frame
            });
            is_caught(server, Plan { pipeline, ..plan(server, 200) }, Mismatch::Flipped);
        }
    }
}

#[test]
fn the_last_bit_of_a_large_payload_counts_too() {
    let server = lying_once(|mut frame| {
        *frame.last_mut().unwrap() ^= 1;
        frame
    });
    let load = Plan { sizes: 65_536.into(), pipeline: 4, ..plan(server, 200) };
    is_caught(server, load, Mismatch::Flipped);
}

#[test]
fn a_shorter_frame_is_truncated() {
    for payload_bytes in [63, 20, 7_u32] {
        let server = lying_once(move |mut frame| {
            frame.truncate(4 + payload_bytes as usize);
            frame[..4].copy_from_slice(&payload_bytes.to_be_bytes());
            frame
        });
        is_caught(server, plan(server, 200), Mismatch::Truncated);
    }
}

#[test]
fn a_frame_that_the_next_one_cuts_off_is_truncated() {
    let server = servers::start(|connection, mut stream| {
        for number in 0.. {
            let mut frame = read_frame(&mut stream)?;
            if connection == 0 && number == 9 {
                frame.truncate(30);
                frame.extend(read_frame(&mut stream)?);
            }
            stream.write_all(&frame)?;
        }
        Ok(())
    });
    is_caught(server, Plan { pipeline: 8, ..plan(server, 200) }, Mismatch::Truncated);
}

#[test]
fn a_length_that_is_too_large_is_a_mismatch() {
    let server = lying_once(|mut frame| {
        frame[3] += 1;
        frame
    });
    is_caught(server, plan(server, 200), Mismatch::Flipped);
}

#[test]
fn another_connections_frame_is_recognised() {
    let shared = Arc::new((Mutex::new(None), Condvar::new()));
    let server = servers::replying(move |connection, number, frame| {
        let (others, arrived) = &*shared;
        let mut others = others.lock().unwrap();
        match (connection, number) {
            (0, 0) => {
                *others = Some(frame.clone());
                arrived.notify_all();
            }
            (1, 0) => {
                let others = arrived.wait_while(others, |frame| frame.is_none()).unwrap();
                return others.clone().unwrap();
            }
            _ => {}
        }
        frame
    });
    is_caught(server, Plan { connections: 2, ..plan(server, 200) }, Mismatch::OtherConnection);
}

#[test]
fn an_older_frame_is_stale() {
    for age in [1, 3] {
        let kept = Mutex::new(Vec::new());
        let server = servers::replying(move |connection, number, frame| {
            let mut kept = kept.lock().unwrap();
            kept.push(frame.clone());
            match (connection, number) {
                (0, 9) => kept[9 - age].clone(),
                _ => frame,
            }
        });
        is_caught(server, plan(server, 200), Mismatch::Stale);
    }
}

#[test]
fn a_frame_that_comes_before_its_turn_is_early() {
    let server = servers::start(|connection, mut stream| {
        for number in 0.. {
            let frame = read_frame(&mut stream)?;
            let is_swapped = connection == 0 && number == 9;
            let next = if is_swapped { read_frame(&mut stream)? } else { Vec::new() };
            stream.write_all(&[next, frame].concat())?;
        }
        Ok(())
    });
    is_caught(server, Plan { pipeline: 8, ..plan(server, 200) }, Mismatch::Early);
}

#[test]
fn a_second_reply_to_one_request_is_unsolicited() {
    let server = lying_once(|frame| [frame.clone(), frame].concat());
    is_caught(server, plan(server, 200), Mismatch::Unsolicited);
}

#[test]
fn small_payloads_are_checked_but_not_classified() {
    for payload_bytes in [1, 7] {
        let server = lying_once(|mut frame| {
            *frame.last_mut().unwrap() ^= 1;
            frame
        });
        let load = Plan { sizes: payload_bytes.into(), ..plan(server, 200) };
        is_caught(server, load, Mismatch::Unclassified);
    }
}

#[test]
fn a_wrong_length_of_an_empty_frame_is_a_mismatch() {
    let server = lying_once(|mut frame| {
        frame[0] = 1;
        frame
    });
    let load = Plan { sizes: 0.into(), ..plan(server, 200) };
    is_caught(server, load, Mismatch::Unclassified);
}

#[test]
fn lies_about_frames_of_several_lengths_are_named_too() {
    let load = |server| Plan {
        sizes: "lognormal:p50=200,p99=8k".parse().unwrap(),
        pipeline: 4,
        ..plan(server, 200)
    };
    let flipped = lying_once(|mut frame| {
        *frame.last_mut().unwrap() ^= 1;
        frame
    });
    is_caught(flipped, load(flipped), Mismatch::Flipped);
    let kept = Mutex::new(Vec::new());
    let stale = servers::replying(move |connection, number, frame| {
        let mut kept = kept.lock().unwrap();
        kept.push(frame.clone());
        if (connection, number) == (0, 9) { kept[7].clone() } else { frame }
    });
    is_caught(stale, load(stale), Mismatch::Stale);
    let truncated = lying_once(|mut frame| {
        let payload_bytes = frame.len() - 4 - 10;
        frame.truncate(4 + payload_bytes);
        frame[..4].copy_from_slice(&u32::try_from(payload_bytes).unwrap().to_be_bytes());
        frame
    });
    is_caught(truncated, load(truncated), Mismatch::Truncated);
}

#[test]
fn a_frame_torn_between_two_requests_with_the_same_body_is_noticed() {
    // Bodies of short frames come again every 127 requests.
    for start in [12, 40, 60] {
        let kept = Mutex::new(Vec::new());
        let server = servers::replying(move |_, number, mut frame| {
            let mut kept = kept.lock().unwrap();
            kept.push(frame.clone());
            if number == 127 + 9 {
                frame[start..].copy_from_slice(&kept[9][start..]);
            }
            frame
        });
        is_caught(server, plan(server, 200), Mismatch::Stale);
    }
}
