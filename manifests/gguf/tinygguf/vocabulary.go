package tinygguf

import "fmt"

// The kinds of tokens, numbered as in GGUF.
type kind int32

const (
	normal  kind = 1
	unknown kind = 2
	control kind = 3
	single  kind = 6 // one byte of a text that no other token covers
)

type token struct {
	text  string
	score float32
	kind  kind
}

// The tokens every sentencepiece vocabulary starts with.
const (
	unknownID = 0
	beginID   = 1
	endID     = 2
)

// Tokens is how many tokens the vocabulary has: a multiple of 256, as the kernels like it.
const Tokens = 512

// The words of the vocabulary are the tokens from Words on, WordCount of them: neither special tokens nor bytes.
const (
	Words     = 3 + 256
	WordCount = Tokens - Words
)

// Sentencepiece's mark for a space.
const space = "▁"

// chatTemplate joins the messages, each on a line of its own.
const chatTemplate = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}" +
	"{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"

// newVocabulary gives the three special tokens, the 256 bytes, the printable characters, and
// syllables with and without a space in front until the vocabulary is full.
func newVocabulary() []token {
	list := []token{{"<unk>", 0, unknown}, {"<s>", 0, control}, {"</s>", 0, control}}
	for b := range 256 {
		list = append(list, token{fmt.Sprintf("<0x%02X>", b), 0, single})
	}
	// Sentencepiece merges the pair with the highest score first; in a vocabulary sorted by use
	// that is the earliest.
	add := func(text string) {
		list = append(list, token{text, -float32(len(list)), normal})
	}
	add(space)
	for c := '!'; c <= '~'; c++ {
		add(string(c))
	}
	for _, prefix := range []string{"", space} {
		for _, consonant := range "bcdfghjklmnprstw" {
			for _, vowel := range "aeiou" {
				if len(list) < Tokens {
					add(prefix + string(consonant) + string(vowel))
				}
			}
		}
	}
	return list
}
