//! eBPF instructions, one by one: what the floor programs are written in. Knows nothing of what
//! they do.

/// Registers by their roles here.
pub(super) mod r {
    pub(in super::super) const RETURN: u8 = 0;
    /// First argument; at the beginning the context.
    pub(in super::super) const CTX: u8 = 1;
    /// Second and third argument, for who calls helpers.
    pub(in super::super) const TWO: u8 = 2;
    pub(in super::super) const THREE: u8 = 3;
    pub(in super::super) const FOUR: u8 = 4;
    /// For whatever is at hand; calls destroy it, as they do 0 to 4.
    pub(in super::super) const A: u8 = 5;
    /// Survive calls.
    pub(in super::super) const SAVED: u8 = 6;
    pub(in super::super) const DATA: u8 = 7;
    pub(in super::super) const EIGHT: u8 = 8;
    pub(in super::super) const NINE: u8 = 9;
    /// The stack's end; offsets are negative.
    pub(in super::super) const STACK: u8 = 10;
}

/// Bytes of a load or store.
#[derive(Clone, Copy, Debug)]
pub(super) enum Size {
    One,
    Two,
    Four,
    Eight,
}

impl Size {
    const fn bits(self) -> u8 {
        match self {
            Self::Four => 0x00,
            Self::Two => 0x08,
            Self::One => 0x10,
            Self::Eight => 0x18,
        }
    }
}

/// Helpers of the kernel, by number (include/uapi/linux/bpf.h).
pub(super) mod helper {
    pub(in super::super) const LOOKUP: i32 = 1;
    pub(in super::super) const UPDATE: i32 = 2;
    pub(in super::super) const TAIL_CALL: i32 = 12;
    pub(in super::super) const ADJUST_HEAD: i32 = 44;
}

/// A place that jumps lead to, once it is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Jump(usize);

/// What the loader has to fill in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reference {
    /// Which instruction, counted from the program's first.
    pub(super) word: usize,
    /// A map's address.
    pub(super) map: &'static str,
}

/// Instructions of one program; jumps that leave go to its last two: answer, exit.
#[derive(Default)]
pub(super) struct Code {
    words: Vec<[u8; 8]>,
    leaving: Vec<usize>,
    /// Maps that are referred to.
    pub(super) references: Vec<Reference>,
}

impl Code {
    pub(super) fn op(&mut self, op: u8, to: u8, from: u8, offset: i16, number: i32) -> &mut Self {
        let mut word = [op, to | from << 4, 0, 0, 0, 0, 0, 0];
        word[2..4].copy_from_slice(&offset.to_le_bytes());
        word[4..].copy_from_slice(&number.to_le_bytes());
        self.words.push(word);
        self
    }

    pub(super) fn set(&mut self, to: u8, number: i32) -> &mut Self {
        self.op(0xb7, to, 0, 0, number)
    }

    pub(super) fn copy(&mut self, to: u8, from: u8) -> &mut Self {
        self.op(0xbf, to, from, 0, 0)
    }

    pub(super) fn add(&mut self, to: u8, number: i32) -> &mut Self {
        self.op(0x07, to, 0, 0, number)
    }

    pub(super) fn add_register(&mut self, to: u8, from: u8) -> &mut Self {
        self.op(0x0f, to, from, 0, 0)
    }

    pub(super) fn subtract_register(&mut self, to: u8, from: u8) -> &mut Self {
        self.op(0x1f, to, from, 0, 0)
    }

    pub(super) fn and(&mut self, to: u8, number: i32) -> &mut Self {
        self.op(0x57, to, 0, 0, number)
    }

    pub(super) fn xor(&mut self, to: u8, number: i32) -> &mut Self {
        self.op(0xa7, to, 0, 0, number)
    }

    pub(super) fn xor_register(&mut self, to: u8, from: u8) -> &mut Self {
        self.op(0xaf, to, from, 0, 0)
    }

    pub(super) fn shift_right(&mut self, to: u8, number: i32) -> &mut Self {
        self.op(0x77, to, 0, 0, number)
    }

    /// Two bytes between host and network order, the rest cleared.
    pub(super) fn swap_two(&mut self, to: u8) -> &mut Self {
        self.op(0xdc, to, 0, 0, 16)
    }

    pub(super) fn load(&mut self, size: Size, to: u8, from: u8, offset: i16) -> &mut Self {
        self.op(0x61 | size.bits(), to, from, offset, 0)
    }

    pub(super) fn store(&mut self, size: Size, to: u8, offset: i16, from: u8) -> &mut Self {
        self.op(0x63 | size.bits(), to, from, offset, 0)
    }

    pub(super) fn store_number(&mut self, size: Size, to: u8, offset: i16, n: i32) -> &mut Self {
        self.op(0x62 | size.bits(), to, 0, offset, n)
    }

    /// Leaves unless the register holds the number.
    pub(super) fn leave_unless(&mut self, register: u8, number: i32) -> &mut Self {
        self.leaving.push(self.words.len());
        self.op(0x55, register, 0, 0, number)
    }

    /// Leaves if the register holds the number.
    pub(super) fn leave_if(&mut self, register: u8, number: i32) -> &mut Self {
        self.leaving.push(self.words.len());
        self.op(0x15, register, 0, 0, number)
    }

    /// Jumps unless the register holds the number.
    pub(super) fn jump_unless(&mut self, register: u8, number: i32) -> Jump {
        self.op(0x55, register, 0, 0, number);
        Jump(self.words.len() - 1)
    }

    /// Jumps.
    pub(super) fn jump(&mut self) -> Jump {
        self.op(0x05, 0, 0, 0, 0);
        Jump(self.words.len() - 1)
    }

    /// Makes a jump lead to the next instruction.
    pub(super) fn here(&mut self, jump: Jump) -> &mut Self {
        let next = self.words.len();
        self.aim(jump.0, next);
        self
    }

    /// Loads the packet's beginning from the context in `ctx` to `data` and leaves if it has less
    /// than `bytes`.
    pub(super) fn packet(&mut self, ctx: u8, data: u8, bytes: i32) -> &mut Self {
        self.load(Size::Four, data, ctx, 0)
            .load(Size::Four, r::THREE, ctx, 4)
            .copy(r::FOUR, data)
            .add(r::FOUR, bytes);
        self.leaving.push(self.words.len());
        self.op(0x2d, r::FOUR, r::THREE, 0, 0)
    }

    /// A map's address.
    pub(super) fn map(&mut self, to: u8, map: &'static str) -> &mut Self {
        self.references.push(Reference {
            word: self.words.len(),
            map,
        });
        self.op(0x18, to, 0, 0, 0).op(0, 0, 0, 0, 0)
    }

    /// The address of a map's value, or 0, for the key on the stack.
    pub(super) fn lookup(&mut self, map: &'static str, key: i16) -> &mut Self {
        self.map(r::CTX, map)
            .copy(r::TWO, r::STACK)
            .add(r::TWO, key.into())
            .call(helper::LOOKUP)
    }

    pub(super) fn call(&mut self, helper: i32) -> &mut Self {
        self.op(0x85, 0, 0, 0, helper)
    }

    pub(super) fn exit(&mut self) -> &mut Self {
        self.op(0x95, 0, 0, 0, 0)
    }

    /// Ends the program: who leaves, leaves with `answer`. Gives its bytes.
    pub(super) fn end(&mut self, answer: i32) -> Vec<u8> {
        let last = self.words.len();
        self.set(r::RETURN, answer).exit();
        for from in std::mem::take(&mut self.leaving) {
            self.aim(from, last);
        }
        self.words.concat()
    }

    fn aim(&mut self, from: usize, to: usize) {
        let distance = i16::try_from(to - from - 1).expect("these programs are short");
        self.words[from][2..4].copy_from_slice(&distance.to_le_bytes());
    }
}
