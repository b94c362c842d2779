"""What people say to robots and assistants: sentences without emotion, and short ones with some.

Other corpora hold opinions and dialogue; commands, numbers and single words are missing from them.
The sentences are made from templates, always the same ones.
"""

from itertools import product

from .labels import EMOTIONS, UNKNOWN, Text, split_by_hash

__all__ = ["COMMANDS", "commands"]

COMMANDS = "commands"

# Templates, and what each {} stands for, in this order.
_NEUTRAL: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...] = (
    ("{} {}", (("turn on", "turn off", "dim", "check", "clean"),
               ("the light", "the kitchen light", "the lamp in the hall", "the heating", "the fan",
                "the television", "the radio", "the printer", "the lights upstairs"))),
    ("{} {}", (("go to", "drive to", "move to", "wait in", "meet me in", "bring it to"),
               ("the kitchen", "the charging station", "the living room", "the front door",
                "the second floor", "the elevator", "room twelve", "the garage", "the office"))),
    ("{} {}", (("open", "close", "lock", "unlock"),
               ("the door", "the window", "the garage", "the curtains", "the gate", "the box"))),
    ("{} {} {}", (("bring me", "pick up", "put down", "hand me", "show me", "find"),
                  ("the", "my", "that"),
                  ("cup", "book", "red box", "keys", "phone", "newspaper", "bottle of water",
                   "blue folder", "towel"))),
    ("what {}", (("time is it", "day is it today", "is the weather like", "is on the calendar",
                  "is the temperature outside", "is seven times eight", "is your name",
                  "is the capital of france", "does the sign say", "is in the box"),)),
    ("{} {}", (("how far is it to", "where is", "how do i get to", "when does the bus leave for"),
               ("the station", "the airport", "the town hall", "the museum", "the next stop",
                "the library", "the supermarket"))),
    ("{} {}", (("set a timer for", "remind me in", "wait for", "come back in"),
               ("five minutes", "ten minutes", "half an hour", "two hours", "thirty seconds"))),
    ("{} {}", (("wake me up at", "the meeting starts at", "the train leaves at", "we close at",
                "the store opens at", "dinner is at"),
               ("six", "seven thirty", "eight", "nine fifteen", "noon", "a quarter past four"))),
    ("the {} {}", (("package", "letter", "plumber", "delivery", "next bus", "report"),
                   ("arrives on monday", "comes on thursday", "is due tomorrow", "is on the table",
                    "will be here at ten", "was moved to friday"))),
    ("there {} in {}", (("are four chairs", "is a table", "are two windows", "is one printer",
                         "are some boxes", "is a blue folder"),
                        ("this room", "the hall", "the office", "the corner", "the back"))),
    ("my {} is {}", (("phone number", "room number", "code", "extension"),
                     ("five five five one two three four", "two zero seven", "nine eight one four",
                      "three six six one"))),
    ("{}", (("play the next song", "read me the news", "volume up", "volume down",
             "pause the music", "call the front desk", "send the message", "follow me",
             "follow me to the elevator",
             "turn left", "turn right", "go straight ahead", "stand still", "start again",
             "repeat that please", "say that again", "take a picture", "read the next page",
             "add milk to the shopping list", "switch to channel four", "start the dishwasher",
             "the report has twelve pages", "i live on the third floor", "i take the bus to work",
             "we have two meetings today", "she works in the other building", "he is at the office",
             "it is ten past three", "the water is in the fridge", "the keys are on the table",
             "i will be back in an hour", "put it on the shelf", "write that down", "next slide",
             "scan the code on the back", "the door on the left", "the second one from the right",
             "there is a step at the entrance", "the cable goes into the port on the side",
             "we meet on tuesday", "i had cereal for breakfast", "it is about two kilometers",
             "as i said the first part is about the history", "hello", "good morning",
             "good evening", "hi there", "okay", "ok", "yes", "no", "yes please", "no thank you",
             "stop", "go", "wait", "left", "right", "up", "down", "back", "forward", "one", "two",
             "three", "four", "five", "six", "seven", "eight", "nine", "zero", "ten", "eleven",
             "twelve", "monday", "tuesday", "thursday", "january", "start", "cancel", "continue",
             "next", "more", "less", "on", "off", "done", "hm", "uh huh", "right then", "maybe",
             "one two three", "seven four two", "eight five one nine", "three six zero",
             "nine nine two", "four one", "six two eight five", "zero one five"),)),
)  # fmt: skip

_FEELING = {
    "anger": (("i am so angry {}", ("at you", "right now", "about this", "with him", "today")),
              ("{} makes me furious", ("this", "that noise", "this machine", "he", "all of it")),
              ("{}", ("leave me alone", "stop it right now", "shut up", "i hate you",
                      "you stupid machine", "you never listen to me", "how dare you",
                      "that is not fair", "you broke it again", "i told you a hundred times",
                      "this is outrageous", "get out of my way", "you are driving me crazy",
                      "don't you dare touch that", "what is wrong with you", "damn it",
                      "i am sick of this", "you ruined everything"))),
    "disgust": (("{} is disgusting", ("this", "that smell", "the food", "that", "this milk")),
                ("{} makes me sick", ("that smell", "this", "the sight of it", "that fish")),
                ("{}", ("that is so gross", "yuck", "ew", "this smells awful",
                        "there is mold on the bread", "get that thing away from my plate",
                        "that tastes horrible", "i feel like throwing up", "how revolting",
                        "the sink is full of slime", "there is a hair in my soup",
                        "that is nasty", "i can't look at it it's so filthy"))),
    "fear": (("i am {}", ("so scared", "afraid of the dark", "frightened", "terrified",
                          "really worried about this", "scared of that dog")),
             ("{}", ("you scared me", "help me", "please help me", "there is somebody outside",
                     "don't leave me here", "i think someone is in the house", "watch out",
                     "i am shaking", "what was that noise", "please don't hurt me",
                     "i don't want to die", "something is coming", "be careful it might fall",
                     "i have a bad feeling about this", "it's going to explode", "call for help"))),
    "happiness": (("i am so {}", ("happy", "glad you are here", "happy to see you", "excited",
                                  "proud of you", "pleased with it")),
                  ("i love {}", ("this", "this song", "you", "my new bike", "your dance")),
                  ("{}", ("yay it worked", "this is wonderful", "that made my day", "great job",
                          "well done", "i got the job", "we won", "thank you so much",
                          "that is hilarious", "you are the best", "what a lovely day",
                          "i can't wait for the party", "it tastes delicious", "good robot",
                          "that is fantastic news", "perfect", "you make me laugh"))),
    "sadness": (("i miss {}", ("my dog", "my mother", "my friends", "home", "her so much")),
                ("i feel so {}", ("lonely", "sad today", "empty", "down", "lost")),
                ("{}", ("my cat died", "nobody likes me", "i want to cry", "it's all over",
                        "she left me", "i have no friends", "i failed again", "i give up",
                        "everything went wrong today", "i lost my job", "it breaks my heart",
                        "he isn't coming back", "i am sorry for your loss", "i can't stop crying",
                        "nothing matters any more", "it hurts so much"))),
    "surprise": (("i {} that", ("can't believe", "did not expect", "never thought of")),
                 ("{}", ("wow", "oh wow", "oh my god really", "no way", "you can dance",
                         "what you are getting married", "where did that come from",
                         "i had no idea", "that was unexpected", "really", "seriously",
                         "you are kidding", "well that is a surprise", "what on earth is that",
                         "i didn't know you could do that", "it just appeared out of nowhere",
                         "how is that possible"))),
}  # fmt: skip


def commands() -> list[Text]:
    """All sentences with their split; lower case and without punctuation, as recognised.

    Single words are all for training: they are few, and each is a robot's everyday business.
    """
    neutral = [
        template.format(*words) for template, choices in _NEUTRAL for words in product(*choices)
    ]
    told = [(sentence, "neutral") for sentence in dict.fromkeys(neutral)]
    for emotion, templates in _FEELING.items():
        told += [
            (template.format(word), emotion) for template, words in templates for word in words
        ]
    return [
        Text(
            text=sentence,
            emotion=EMOTIONS.index(emotion) if emotion in EMOTIONS else UNKNOWN,
            rating=None,
            polarity=None,
            split=split_by_hash(sentence) if " " in sentence else "train",
            corpus=COMMANDS,
        )
        for sentence, emotion in told
    ]
