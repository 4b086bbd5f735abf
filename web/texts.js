// What the views say, in the language that the page is set to. A language has every key of English, in its order; what
// stands in braces is filled in.

import { app } from "../../scripts/app.js";

export const TEXTS = {
  en: {
    reference: "reference",
    frame: "frame",
    frameNumber: "frame {frame}",

    scopeTitle: "Identity scope",
    scopeEmpty: "how alike every frame's face is, step by step, while it runs",
    scopeHint:
      "Cosine similarity of each frame's face to the reference's, measured by the very network that HJB optimises. " +
      "Identity Score judges the finished video by a network of its own, where the model has one.",
    worst: "worst",
    waiting: "waiting for the first step",
    nothingMeasured: "nothing was measured",
    meanInStep: "mean similarity in step {step}",
    meanInIteration: "mean similarity in step {step}, iteration {iteration} of {iterations}",
    meanAtEnd: "mean similarity at the end",
    meanAtEndOfHjb: "mean, as HJB sees it; {before} before step {step}",
    worstFrameIs: "worst frame {frame}: {value}",
    step: "step",
    similarity: "similarity",
    mean: "mean",
    afterHjb: "after HJB",
    worstFrame: "worst frame",
    kept: "kept",
    atStep: "step {step}, mean",
    atFrame: "step {step}, frame {frame}",
    notMeasured: "step {step}: not measured",
    unmeasured: "not measured",
    noFace: "{where}: no face",
    valueIs: "{where}: {value}",
    valuesAre: "{where}: {before} before HJB, {after} after",
    willRun: "steps {first} to {last} will be run",
    willRunRest: "steps 0 to {kept} are kept, {first} to {last} will be run",
    willRunNothing: "all {steps} steps are kept, nothing is run",
    about: "{text}, about {time}",
    timeLeft: "step {done} of {steps} done, about {time} left",
    timeLeftPlain: "step {done} of {steps} done, about {time} left and the face optimisation",
    seconds: "{seconds} s",
    minutes: "{minutes} min",
    ran: "steps {first} to {last} ran in {time}",
    ranRest: "steps {first} to {last} ran in {time}, steps 0 to {kept} were kept",
    ranNothing: "all {steps} steps were kept, nothing was run",
    faceless: "{text}; without a face there is no identity to follow",
    stopped: "stopped in step {step}; steps that were done are kept",

    alignmentTitle: "Alignment view",
    alignmentEmpty: "run once to see, compare and nudge the bodies",
    driver: "driver",
    result: "result",
    pixels: "{number} px",
    distanceIs: "{distance} from reference",
    nothingToCompare: "nothing to compare",
    inFrame: "frame {frame}: {text}",
    notPossible: "not possible",
    runToSee: "run to see",
    nudged: "nudged {right} %, {down} %, ×{scale}, {turned}°",
    dragToNudge: "drag the result to nudge it",
    runToApply: "{text} · run to apply",
    outdated: "Of the last run, before what you have changed since.",
    reset: "reset",
    play: "Play",
    resetHint: "Back to where the method put it",
    dragHint: "Drag to move; corners scale, the knob turns. Then the wheel scales, Shift + wheel turns, arrows move.",
    distanceHint:
      "How far the result's joints are from the reference's: how unlike the postures are, not how good the fit is.",

    roleLearned: "recommended",
    roleSvd: "no network",
    roleAffine: "also stretches",
    roleHomography: "perspective",
    roleV1: "as published",
    roleNone: "as filmed",
    methodHint: "{name}: joints are {distance} from the reference's, on average over the clip.",
    methodsHint:
      "Nearer is not better: that distance holds the pose, too, and a raised arm must be far from a hanging one. " +
      "A fit that looks at nothing else, as v1, comes near and can still be wrong in size and place. Measured where " +
      "the right place is known, learned is nearest by far. See whether heads, shoulders and hips lie over one another.",

    reportEmpty: "run once: the report comes here",
  },
  zh: {
    reference: "参考",
    frame: "帧",
    frameNumber: "第 {frame} 帧",

    scopeTitle: "身份示波器",
    scopeEmpty: "运行时逐步显示每一帧的人脸与参考人脸有多像",
    scopeHint:
      "每一帧的人脸与参考人脸的余弦相似度，由 HJB 所优化的同一个网络测量。" +
      "模型带有独立的评判网络时，“身份评分”用它来评判生成好的视频。",
    worst: "最不像",
    waiting: "等待第一步",
    nothingMeasured: "没有测量结果",
    meanInStep: "第 {step} 步平均相似度",
    meanInIteration: "第 {step} 步平均相似度，迭代 {iteration}/{iterations}",
    meanAtEnd: "最终平均相似度",
    meanAtEndOfHjb: "HJB 所见的平均值；第 {step} 步前 {before}",
    worstFrameIs: "最不像的是第 {frame} 帧：{value}",
    step: "步",
    similarity: "相似度",
    mean: "平均",
    afterHjb: "HJB 之后",
    worstFrame: "最不像的帧",
    kept: "沿用",
    atStep: "第 {step} 步，平均",
    atFrame: "第 {step} 步，第 {frame} 帧",
    notMeasured: "第 {step} 步：未测量",
    unmeasured: "未测量",
    noFace: "{where}：没有人脸",
    valueIs: "{where}：{value}",
    valuesAre: "{where}：HJB 之前 {before}，之后 {after}",
    willRun: "将运行第 {first} 到 {last} 步",
    willRunRest: "第 0 到 {kept} 步沿用上次的结果，将运行第 {first} 到 {last} 步",
    willRunNothing: "全部 {steps} 步沿用上次的结果，无需运行",
    about: "{text}，约 {time}",
    timeLeft: "已完成 {done}/{steps} 步，大约还需 {time}",
    timeLeftPlain: "已完成 {done}/{steps} 步，大约还需 {time}，人脸优化另计",
    seconds: "{seconds} 秒",
    minutes: "{minutes} 分钟",
    ran: "第 {first} 到 {last} 步运行完毕，用时 {time}",
    ranRest: "第 {first} 到 {last} 步运行完毕，用时 {time}，第 0 到 {kept} 步沿用上次的结果",
    ranNothing: "全部 {steps} 步沿用了上次的结果，没有重新运行",
    faceless: "{text}；没有人脸，也就没有可遵循的身份",
    stopped: "在第 {step} 步停止；已完成的步会保留",

    alignmentTitle: "对齐视图",
    alignmentEmpty: "运行一次，即可查看、比较和微调骨架",
    driver: "驱动",
    result: "结果",
    pixels: "{number} 像素",
    distanceIs: "距参考 {distance}",
    nothingToCompare: "没有可比较的关节",
    inFrame: "第 {frame} 帧：{text}",
    notPossible: "无法使用",
    runToSee: "运行后显示",
    nudged: "已微调 {right} %，{down} %，×{scale}，{turned}°",
    dragToNudge: "拖动结果骨架即可微调",
    runToApply: "{text} · 运行后生效",
    outdated: "这是上次运行的说明，之后你又改了设置。",
    reset: "重置",
    play: "播放",
    resetHint: "回到该方法给出的位置",
    dragHint: "拖动可移动；拖四角缩放，拖圆钮旋转。点击后可用滚轮缩放，Shift + 滚轮旋转，方向键移动。",
    distanceHint: "结果的关节与参考的关节相距多远：它表示两者姿势有多不同，不表示对齐得有多好。",

    roleLearned: "推荐",
    roleSvd: "不用网络",
    roleAffine: "另加拉伸",
    roleHomography: "另加透视",
    roleV1: "原版做法",
    roleNone: "保持原样",
    methodHint: "{name}：整段平均，关节与参考关节相距 {distance}。",
    methodsHint:
      "距离更近并不等于更好：其中也包含姿势的差别，举起的手臂本来就该远离垂下的手臂。" +
      "v1 这样只看距离的拟合，距离近，大小和位置却仍可能不对。在已知正确位置的动作上测量，learned 离正确位置最近，优势明显。" +
      "请看头、肩、髋是否重合。",

    reportEmpty: "运行一次后，报告显示在这里",
  },
};

/** A text in the page's language, or in English where that language has none. */
export function say(key, values = {}) {
  const language = app.extensionManager?.setting.get("Comfy.Locale");
  const text = TEXTS[language]?.[key] ?? TEXTS.en[key];
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}
