# Chapter 3: of the eight data pages at 0x10000, two are the same page of the host. Find which,
# and send both numbers as digits, the lower first.
# Check it with: cargo run -p tour -- check 3
	.code16
	mov $0x1000, %ax
	mov %ax, %ds			# data page N is at offset N * 0x1000
	mov $0x3f8, %dx
	# Here is the gap. A byte of page 3: mov 0x3000, %al. With the offset in %bx: mov (%bx), %al.

	hlt
