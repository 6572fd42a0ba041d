//! Takes the terminal over as `bindwatch top` does, and panics in a thread when a line is read.
#![expect(clippy::panic, clippy::expect_used, reason = "that is what it is for")]

use bindwatch::tui::terminal::Screen;

fn main() {
    let mut screen = Screen::take(true).expect("a terminal");
    let picture = |area: bindwatch::tui::terminal::Area, buffer: &mut bindwatch::tui::terminal::Picture| {
        let plain = buffer.cell((area.x, area.y)).expect("a cell").style();
        buffer.set_string(area.x, area.y, "taken over", plain);
    };
    screen.draw(picture).expect("a frame");
    let mut byte = [0];
    std::io::Read::read_exact(&mut std::io::stdin(), &mut byte).expect("a key");
    let thread = std::thread::spawn(|| panic!("this was to be"));
    // Panics do not unwind in a release, so this is not reached there.
    drop(thread.join());
    std::process::abort();
}
