"""Small programs that do the same work, each in its own way. The functions' names are the kinds of work.

one     one stream, `subscribers` consumers, as fast as it comes; `repeat` times
many    `streams` streams at once
memory  what `streams` open streams take, before they end
short   `streams` short ones, one after another
started `streams` at once, until the head of the last answer has come
connections  `streams` short ones, one after another, each on a new connection
"""
