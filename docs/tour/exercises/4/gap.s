# Chapter 4: this guest reads the line status before each of its 33 characters. Let it read the
# status once for each sixteen characters, which is what the FIFO of a UART takes.
# Check it with: cargo run -p tour -- check 4
	.section .note, "a", @note
	.long 4, 4, 18
	.asciz "Xen"
	.long start
	.text
	.code32
start:	mov $text, %esi
# Here is the gap: this loop asks too often.
next:	mov $0x3fd, %edx
wait:	in (%dx), %al
	test $0x20, %al
	jz wait
	mov $0x3f8, %edx
	mov (%esi), %al
	out %al, (%dx)
	inc %esi
	cmp $end, %esi
	jne next
	mov $0x600, %edx
	mov $0x34, %al
	out %al, (%dx)
	hlt
text:	.ascii "the guest waits for what it reads"
end:
