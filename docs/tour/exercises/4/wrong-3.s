# One question for all.
# Gets: The guest read port 0x3fd once for 33 characters: a FIFO takes sixteen, so ask again after the sixteenth.
	.section .note, "a", @note
	.long 4, 4, 18
	.asciz "Xen"
	.long start
	.text
	.code32
start:	mov $text, %esi
ask:	mov $0x3fd, %edx
wait:	in (%dx), %al
	test $0x20, %al
	jz wait
	mov $0x3f8, %edx
	mov $16, %ecx
send:	mov (%esi), %al
	out %al, (%dx)
	inc %esi
	cmp $end, %esi
	je done
	loop send
	jmp send
done:
	mov $0x600, %edx
	mov $0x34, %al
	out %al, (%dx)
	hlt
text:	.ascii "the guest waits for what it reads"
end:
