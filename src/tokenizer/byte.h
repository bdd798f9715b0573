/* tokenizer_type=byte: token b is byte b; three more for the ends of documents and for padding.  No file needed. */
#ifndef HD_TOKENIZER_BYTE_H
#define HD_TOKENIZER_BYTE_H

enum { HD_BYTE_BOS = 256, HD_BYTE_EOS = 257, HD_BYTE_PAD = 258, HD_BYTE_VOCAB = 259 };

#endif
