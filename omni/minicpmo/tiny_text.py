"""The paragraphs that the tiny checkpoint's tokenizer is trained on: everyday talk, zh and en."""

ENGLISH = """
Good morning. How are you today? I am fine, thank you, and how about you? It is a bright morning,
the sky is clear, and the birds in the garden have been singing since before the sun came up.
Could you tell me what time it is? It is a quarter past nine. The next train leaves at ten, so
there is still enough time for a cup of coffee and a piece of bread before we have to go to the
station. I would like to know what you can see in this picture. There is a small red boat on a
quiet lake, and behind it there are two tall trees and a house with a white door. A man is
standing on the bridge. He is holding an umbrella, although it is not raining any more. It seems
to be early autumn. Please speak a little more slowly. I did not understand the last word. Of
course, let me say it again. What is the weather going to be like tomorrow? There will be some
clouds in the morning and a light wind from the west, but it should be warm and dry in the
afternoon. You will not need your coat. My friend is learning to play the piano. She practises
every evening after work, and on Sundays she plays for her neighbours. They say that the music
makes the whole house feel friendlier. Can you help me cook something simple? Take three eggs,
some butter, a little salt and a handful of fresh herbs. Beat the eggs, melt the butter in a pan,
pour the eggs in, and stir until they are soft. When you hear a voice, you listen; when the voice
stops, you think for a moment, and then you answer. That is how people talk with one another:
first one, then the other, and sometimes both at once. If I interrupt you, please stop and listen
to me. I may have a question, or I may want to add a thing. The computer on the table is old, but
it still works. It starts slowly, and the screen flickers now and then. I keep it because all of
my letters and photographs from the last ten years are on it. There are one, two, three, four,
five, six, seven, eight, nine, ten apples in the basket. Each of them costs 25 cents, so all of
them together cost 2.50. In 2024 they were cheaper; in 1998 much cheaper. Where shall we meet?
Let us meet in front of the library at half past six, and walk along the river from there. The
new restaurant near the old market has good noodles and even better dumplings. A short answer is
often better than a long one. Say what you know, say what you do not know, and ask when something
is not clear. Nobody has to know everything, and nobody can. Tell me a story. Once there was a
fisherman who lived with his dog at the edge of the sea. Every night he rowed out, and every
morning the dog waited for him on the sand. One day a storm came, and the fisherman could not see
the shore. Then he heard the dog, and he followed the sound until he was home. Sound is a wave in
the air. A microphone turns it into numbers, sixteen thousand of them in a second, and a
loudspeaker turns numbers into sound again. Between the two, a machine can listen and speak. He's
sure that they've seen it, she'd like to try, we'll wait, I'm here, it isn't far, don't worry.
Thank you very much for your help. You are welcome. Have a nice day, and see you again soon!
"""

CHINESE = """
早上好，今天过得怎么样？我很好，谢谢你，你呢？今天天气很好，天空很蓝，花园里的小鸟从早上就开始唱歌。
请问现在几点了？现在九点一刻。下一班火车十点开，我们还有时间喝一杯咖啡，吃一点东西，然后再去车站。
你能告诉我这张图片里有什么吗？图片里有一条红色的小船，停在安静的湖面上，后面有两棵大树和一座白色的房子。
一个人站在桥上，手里拿着一把雨伞，可是雨已经停了。看起来好像是初秋的样子。
请你说得慢一点，我没有听懂最后一个词。好的，我再说一遍。
明天的天气怎么样？明天早上有一点云，有小风，下午会很暖和，你不需要带外套。
我的朋友正在学习弹钢琴。她每天下班以后都要练习，星期天还会弹给邻居们听。大家都说音乐让生活更有意思。
你可以教我做一道简单的菜吗？准备三个鸡蛋，一点黄油，少许盐，再加一些新鲜的葱花。先把鸡蛋打散，再放到锅里慢慢炒。
当你听到有人说话的时候，你要认真听；当他说完以后，你想一想，然后再回答。人们就是这样交谈的。
如果我打断你，请你先停下来听我说。我可能有一个问题，也可能想补充一点内容。
桌子上的电脑已经很旧了，但是还可以用。它启动得很慢，屏幕有时候会闪。我一直留着它，因为里面有很多照片。
篮子里有一个、两个、三个、四个、五个苹果，每个苹果两块五毛钱。二零二四年的时候更便宜。
我们在哪里见面？六点半在图书馆门口见面吧，然后一起沿着河边走一走。市场旁边新开的饭馆面条很好吃，饺子更好吃。
简短的回答常常比很长的回答更好。知道的就说知道，不知道的就说不知道，不清楚的地方可以再问。
给我讲一个故事吧。从前有一个渔夫，他和他的狗一起住在海边。每天晚上他出海打鱼，每天早上狗都在沙滩上等他。
有一天来了一场大风，渔夫看不见岸边。后来他听见了狗的叫声，就跟着声音回到了家。
声音是空气里的波。麦克风把声音变成数字，喇叭再把数字变成声音。在这两者之间，机器可以学会听，也可以学会说。
小朋友们在公园里玩得很开心，老人们坐在树下喝茶聊天，孩子的妈妈正在看书。
学习一门新的语言需要时间，也需要耐心。每天说一点，听一点，慢慢就会进步。
非常感谢你的帮助。不客气，祝你今天愉快，我们下次再见！
"""

#: Words of the prompts, so that they make few tokens, and runs of line ends, as the template's.
PROMPTS = """
system
user
assistant

You are a helpful assistant.

Streaming Omni Conversation.

Clone the voice in the provided audio prompt.

As an assistant, you will speak using this voice style.

模仿音频样本的音色并生成新的内容。请用这种声音风格来为用户提供帮助。

"""


def paragraphs() -> list[str]:
    """Return the training text, one paragraph an item, in a fixed order."""
    english = ENGLISH.strip().split("\n")
    chinese = CHINESE.strip().split("\n")
    turns = [f"user\n{line}\n\nassistant\n{line}\n\n" for line in chinese + english]
    return english + chinese + turns + [PROMPTS] * 4
