# Chapter 8: this guest counts the bits of the edu device's register at bar + 4. It works where the
# BAR is mapped. Change one line of `main` into two, so that it works with `mmap=off` too, and still
# reads the register once.
# Check it with: cargo run -p tour -- check 8
	.include "device.s"

main:	call answer
	movl $0xfffff000, bar + 4
# Here is the gap: KVM does not know this instruction.
	popcnt bar + 4, %eax
	mov $label, %esi
	jmp say
label:	.asciz "bits that are set: "
