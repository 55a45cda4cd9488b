# The end of the text ends only the inner loop at its sixteenth character.
# Gets: The guest sent "the guest waits ", and wanted is "the guest waits for what it reads": see that both loops end with the text, and that the inner one does not skip a character.
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
done:
	mov $0x600, %edx
	mov $0x34, %al
	out %al, (%dx)
	hlt
text:	.ascii "the guest waits for what it reads"
end:
