# Chapter 2: send the nine digits 123456789 to port 0x3f8, one byte each, and halt. Use a loop.
# Check it with: cargo run -p tour -- check 2
	.code16
	mov $0x3f8, %dx
	mov $'1', %al
again:
	# Here is the gap: send the digit, take the next one, and go on until '9' is sent.

	hlt
