# Blanks comments and the text of string and character literals of C, and prints  FILE:LINE:TEXT.  A literal keeps its
# quotes.  #include lines are kept whole.  No file of the tree continues a string over a line's end by a backslash.

FNR == 1 { in_comment = 0 }

/^[ \t]*#[ \t]*include/ && !in_comment { print FILENAME ":" FNR ":" $0; next }

{
    rest = $0
    out = ""
    while (rest != "") {
        if (in_comment) {
            end = index(rest, "*/")
            if (end == 0) { rest = ""; break }
            rest = substr(rest, end + 2)
            in_comment = 0
            continue
        }
        if (!match(rest, /\/\*|\/\/|"|'/)) { out = out rest; break }
        start = substr(rest, RSTART, RLENGTH)
        out = out substr(rest, 1, RSTART - 1)
        rest = substr(rest, RSTART + RLENGTH)
        if (start == "//") { break }
        if (start == "/*") { out = out " "; in_comment = 1; continue }
        out = out start start
        # The literal's body: anything but the quote and the backslash, or a backslash and what it protects.
        if (start == "\"") { match(rest, /^([^"\\]|\\.)*"/) } else { match(rest, /^([^'\\]|\\.)*'/) }
        rest = RLENGTH > 0 ? substr(rest, RLENGTH + 1) : ""
    }
    print FILENAME ":" FNR ":" out
}
